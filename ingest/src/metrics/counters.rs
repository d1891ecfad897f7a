//! Counters of the sink, for `/metrics` and for benchmarks.
//!
//! [`crate::counters`] decides the names under which they are exported.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::counters;

/// Interval at which the counters are exported.
const EXPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Counters since the start of the process; except for the two gauges they only grow.
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

/// A snapshot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkSnapshot {
    /// Lines (points) that the store has accepted.
    pub lines_written: u64,
    /// Lines that the store has refused because of their content.
    pub lines_rejected: u64,
    /// Messages of which every line was accepted.
    pub messages_written: u64,
    /// Messages of which at least one line was refused.
    pub messages_rejected: u64,
    /// Write requests that have completed, with any response or an error.
    pub requests: u64,
    /// Requests that were sent again unchanged.
    pub retries: u64,
    /// Times that lines were sent again in parts, because they were too large or some were bad.
    pub splits: u64,
    /// Bytes of request bodies, after compression.
    pub bytes_sent: u64,
    /// Gauge: bytes of submitted lines without an outcome.
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
    /// Reads all counters. They are read sequentially: sums may be off by concurrent changes.
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

/// Exports the sink's counters until `stop`.
pub(crate) async fn export_counters(sink: Arc<SinkCounters>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EXPORT_INTERVAL) => {}
        }
        let SinkSnapshot { lines_written, lines_rejected, requests, retries, bytes_held, .. } =
            sink.snapshot();
        counters::points_stored(lines_written, lines_rejected);
        counters::store_requests(requests, retries);
        counters::points_held(bytes_held);
    }
}
