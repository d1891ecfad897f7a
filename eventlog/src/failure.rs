//! What the database does not let this process do, since when and why: for health checks, and for
//! answers that may be old because of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use muster_schemas::Timestamp;

use crate::error::StoreError;

/// A failure that was not met again for this long is over: nothing is tried all the time.
const TTL: Duration = Duration::from_secs(60);

/// Why something cannot be written. It names no host, no file and no project: everybody may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The database's disk is full.
    DiskFull,
    /// The database cannot be reached.
    Unreachable,
    /// A stored event cannot be applied.
    Event,
    /// Something else; the log of the process has it.
    Other,
}

impl Cause {
    pub(crate) fn of(error: &StoreError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull
        } else if error.is_away() {
            Self::Unreachable
        } else {
            Self::Other
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "the database's disk is full",
            Self::Unreachable => "the database cannot be reached",
            Self::Event => "a stored event cannot be applied; a newer release may be needed",
            Self::Other => "see the server's log",
        })
    }
}

/// A failure that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was met first.
    pub since: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// The failure of one piece of work, as long as it lasts.
#[derive(Clone, Debug, Default)]
pub struct FailureWatch(Arc<Mutex<Option<(Failure, Instant)>>>);

impl FailureWatch {
    /// Notes that the work has failed.
    pub(crate) fn failed(&self, cause: Cause) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *known {
            Some((failure, at)) if at.elapsed() < TTL => failure.since,
            _ => SystemTime::now().into(),
        };
        *known = Some((Failure { since, cause }, Instant::now()));
    }

    /// Notes that the work has succeeded.
    pub(crate) fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The failure, if it lasts.
    #[must_use]
    pub fn current(&self) -> Option<Failure> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, at)| at.elapsed() < TTL).map(|(failure, _)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_beginning_until_the_work_succeeds() {
        let watch = FailureWatch::default();
        assert_eq!(watch.current(), None);
        watch.failed(Cause::Unreachable);
        let first = watch.current().unwrap();
        watch.failed(Cause::DiskFull);
        assert_eq!(watch.current(), Some(Failure { cause: Cause::DiskFull, ..first }));
        watch.succeeded();
        assert_eq!(watch.current(), None);
    }
}
