//! What the sink counts of itself, for `/metrics` and for the readers of a benchmark.
//!
//! Names and formats of the exporter are not decided here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow, but for the two gauges; all since start.
#[derive(Debug, Default)]
pub struct SinkCounters {
    pub(super) lines_written: AtomicU64,
    pub(super) lines_rejected: AtomicU64,
    pub(super) messages_written: AtomicU64,
    pub(super) messages_rejected: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) splits: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) bytes_held: AtomicU64,
    pub(super) requests_in_flight: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkSnapshot {
    /// Lines (points) that the store has taken.
    pub lines_written: u64,
    /// Lines that the store has refused for what they are.
    pub lines_rejected: u64,
    /// Messages of which every line was taken.
    pub messages_written: u64,
    /// Messages of which at least one line was refused.
    pub messages_rejected: u64,
    /// Write requests that were answered, whatever the answer, or failed.
    pub requests: u64,
    /// Requests that had to be sent again as they were.
    pub retries: u64,
    /// Times that lines were sent again in parts, because they were too large or some were bad.
    pub splits: u64,
    /// Bytes of request bodies, after compression.
    pub bytes_sent: u64,
    /// Gauge: bytes of lines that were handed in and whose fate is open.
    pub bytes_held: u64,
    /// Gauge: batches that are being written.
    pub requests_in_flight: u64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

pub(super) fn sub(gauge: &AtomicU64, amount: u64) {
    gauge.fetch_sub(amount, Ordering::Relaxed);
}

impl SinkCounters {
    /// Reads all counters. They are read one after the other: sums may be off by what happens
    /// meanwhile.
    #[must_use]
    pub fn snapshot(&self) -> SinkSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SinkSnapshot {
            lines_written: get(&self.lines_written),
            lines_rejected: get(&self.lines_rejected),
            messages_written: get(&self.messages_written),
            messages_rejected: get(&self.messages_rejected),
            requests: get(&self.requests),
            retries: get(&self.retries),
            splits: get(&self.splits),
            bytes_sent: get(&self.bytes_sent),
            bytes_held: get(&self.bytes_held),
            requests_in_flight: get(&self.requests_in_flight),
        }
    }
}
