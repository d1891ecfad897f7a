//! Failures of this process's writes to the database, with time and cause: for health checks, and
//! for responses that may be outdated because of them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use muster_schemas::Timestamp;
use parking_lot::Mutex;

use crate::error::StoreError;

/// Time after which a failure that did not recur is over: not every operation is retried
/// constantly.
const FAILURE_TTL: Duration = Duration::from_secs(60);

/// Cause of a failed write. It contains no host, file or project, because anyone may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The database's disk is full.
    DiskFull,
    /// The database is unreachable.
    Unreachable,
    /// A stored event cannot be applied.
    Event,
    /// Another cause, which is in the process's log.
    Other,
}

impl Cause {
    pub(crate) fn of(error: &StoreError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull
        } else if error.is_unavailable() {
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

/// A persistent failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Time of the first occurrence.
    pub since: Timestamp,
    /// Cause.
    pub cause: Cause,
}

/// State of one operation: its failure, while it persists.
#[derive(Clone, Debug, Default)]
pub struct FailureWatch(Arc<Mutex<Option<(Failure, Instant)>>>);

impl FailureWatch {
    /// Records that the operation failed.
    pub(crate) fn failed(&self, cause: Cause) {
        let mut state = self.0.lock();
        let since = match *state {
            Some((failure, at)) if at.elapsed() < FAILURE_TTL => failure.since,
            _ => SystemTime::now().into(),
        };
        *state = Some((Failure { since, cause }, Instant::now()));
    }

    /// Records that the operation succeeded.
    pub(crate) fn succeeded(&self) {
        *self.0.lock() = None;
    }

    /// Returns the failure, if it persists.
    #[must_use]
    pub fn current(&self) -> Option<Failure> {
        let state = self.0.lock();
        state.filter(|(_, at)| at.elapsed() < FAILURE_TTL).map(|(failure, _)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_first_time_until_the_operation_succeeds() {
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
