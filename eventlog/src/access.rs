//! Changes of tokens and projects, which decide what a request may do: caches of such decisions ask
//! here whether they are still valid.
//!
//! The append of such a change counts it in its own process, and notifies all others. A
//! notification may be lost with its connection, so no decision is used for longer than
//! [`MAX_AGE`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use muster_schemas::events::{ApiTokenRevoked, ProjectArchived, ProjectRestored};

/// Channel for notifications of changes of tokens and projects; without content.
pub(crate) const ACCESS_CHANNEL: &str = "muster_access";
/// Maximum time for which a decision is used without reading the log again.
const MAX_AGE: Duration = Duration::from_millis(750);
/// Age after which a decision is read again while others still use it.
const REFRESH_AGE: Duration = Duration::from_millis(400);

/// The number of changes that this process knows of.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessChanges(Arc<AtomicU64>);

impl AccessChanges {
    /// Counts a change, or that one may have been missed.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the stamp of a decision that is read next.
    pub(crate) fn stamp(&self) -> AccessStamp {
        AccessStamp { changes: self.0.load(Ordering::SeqCst), taken_at: Instant::now() }
    }

    /// Whether a decision with this stamp may still be used.
    pub(crate) fn is_current(&self, stamp: &AccessStamp) -> bool {
        stamp.changes == self.0.load(Ordering::SeqCst) && stamp.taken_at.elapsed() < MAX_AGE
    }
}

/// Whether an event of this type changes a decision that was cached. Uses of tokens do not; they
/// are frequent while devices enroll.
pub(crate) fn is_about_access(kind: &str) -> bool {
    [ApiTokenRevoked::TYPE, ProjectArchived::TYPE, ProjectRestored::TYPE].contains(&kind)
}

/// The moment before a decision was read from the log.
#[derive(Clone, Copy, Debug)]
pub struct AccessStamp {
    changes: u64,
    taken_at: Instant,
}

impl AccessStamp {
    /// Whether the decision should be read again soon, while it is still valid.
    #[must_use]
    pub fn is_ageing(&self) -> bool {
        self.taken_at.elapsed() >= REFRESH_AGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocations_and_archived_projects_are_about_access() {
        for (kind, expected) in [
            (ApiTokenRevoked::TYPE, true),
            (ProjectArchived::TYPE, true),
            (ProjectRestored::TYPE, true),
            ("EnrollmentTokenUsed", false),
            ("ApiTokenUsed", false),
            ("DeviceConnected", false),
        ] {
            assert_eq!(is_about_access(kind), expected, "{kind}");
        }
    }
}
