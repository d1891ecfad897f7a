//! Counters of a simulated fleet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Maximum number of distinct errors.
const MAX_ERROR_KINDS: usize = 20;

/// The counters, shared by all devices.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) enrolled: AtomicU64,
    pub(crate) online: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) batches_stored: AtomicU64,
    pub(crate) points: AtomicU64,
    pub(crate) differing: AtomicU64,
    pub(crate) runs: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// A snapshot of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Number of devices that have enrolled.
    pub enrolled: u64,
    /// Number of devices that are connected and got their welcome.
    pub online: u64,
    /// Number of connections.
    pub connects: u64,
    /// Number of recorded events.
    pub events: u64,
    /// Number of events that the log has acknowledged.
    pub committed: u64,
    /// Number of events that were sent again.
    pub resent: u64,
    /// Number of metric batches that were sent.
    pub batches: u64,
    /// Number of metric batches that the broker has stored.
    pub batches_stored: u64,
    /// Number of points in those.
    pub points: u64,
    /// Number of acks that named an event other than the device's own: a defect of the server.
    pub differing: u64,
    /// Number of runs that devices have performed.
    pub runs: u64,
    /// Number of errors by message; devices retry.
    pub errors: BTreeMap<String, u64>,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    /// Counts an error; the device retries.
    pub(crate) fn error(&self, message: &str) {
        let mut errors = self.errors.lock();
        if errors.len() < MAX_ERROR_KINDS || errors.contains_key(message) {
            *errors.entry(message.to_owned()).or_default() += 1;
        } else {
            *errors.entry("other errors".to_owned()).or_default() += 1;
        }
    }

    /// Returns a snapshot of the counters.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterSnapshot {
            enrolled: read(&self.enrolled),
            online: read(&self.online),
            connects: read(&self.connects),
            events: read(&self.events),
            committed: read(&self.committed),
            resent: read(&self.resent),
            batches: read(&self.batches),
            batches_stored: read(&self.batches_stored),
            points: read(&self.points),
            differing: read(&self.differing),
            runs: read(&self.runs),
            errors: self.errors.lock().clone(),
        }
    }
}
