//! What a simulated fleet has done, counted while it does it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Different errors that are kept apart.
const KINDS: usize = 20;

/// Counts; shared by all devices.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) joined: AtomicU64,
    pub(crate) online: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) batches_taken: AtomicU64,
    pub(crate) points: AtomicU64,
    pub(crate) differing: AtomicU64,
    pub(crate) runs: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Devices that have enrolled.
    pub joined: u64,
    /// Devices that have a connection and were welcomed on it.
    pub online: u64,
    /// Connections that were made.
    pub connects: u64,
    /// Events that were recorded.
    pub events: u64,
    /// Events that the log has, by its own word.
    pub committed: u64,
    /// Events that were sent again.
    pub resent: u64,
    /// Metric batches that were sent.
    pub batches: u64,
    /// Metric batches that the broker has.
    pub batches_taken: u64,
    /// Points in those.
    pub points: u64,
    /// Acks that named another event than the device's own: a defect of the server.
    pub differing: u64,
    /// Runs that devices were asked for and have done.
    pub runs: u64,
    /// What went wrong, and how often; devices try again.
    pub errors: BTreeMap<String, u64>,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    /// Something went wrong; the device tries again.
    pub(crate) fn error(&self, words: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < KINDS || errors.contains_key(words) {
            *errors.entry(words.to_owned()).or_default() += 1;
        } else {
            *errors.entry("other errors".to_owned()).or_default() += 1;
        }
    }

    /// The counts now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            joined: read(&self.joined),
            online: read(&self.online),
            connects: read(&self.connects),
            events: read(&self.events),
            committed: read(&self.committed),
            resent: read(&self.resent),
            batches: read(&self.batches),
            batches_taken: read(&self.batches_taken),
            points: read(&self.points),
            differing: read(&self.differing),
            runs: read(&self.runs),
            errors: self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
