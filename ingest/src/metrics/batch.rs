//! Messages that are written to the store together, and the outcome that each of them gets.

use std::sync::Arc;

use muster_metric_store::{Lines, MetricBucket};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::counters::{SinkCounters, add, sub};
use super::sink_settings::SinkSettings;

/// A line that the store refused because of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedLine {
    /// The line, without its line end.
    pub line: String,
    /// The store's reason, at most 500 characters.
    pub reason: String,
}

/// The outcome of the lines of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of them are in the store: acknowledge the message.
    Written,
    /// These are permanently refused, the others are in the store: store the message as a dead
    /// letter, then acknowledge it.
    Rejected(Vec<RejectedLine>),
    /// The sink stopped first; some lines may be in the store. Do not acknowledge: writing a point
    /// twice changes nothing.
    Abandoned,
}

/// Bytes that count against [`SinkSettings::max_held_bytes`] until dropped.
pub(super) struct HeldBytes {
    _permit: OwnedSemaphorePermit,
    bytes: u64,
    counters: Arc<SinkCounters>,
}

impl HeldBytes {
    /// Counts the bytes that the permit was acquired for.
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        bytes: u64,
        counters: Arc<SinkCounters>,
    ) -> Self {
        add(&counters.bytes_held, bytes);
        Self { _permit: permit, bytes, counters }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        sub(&self.counters.bytes_held, self.bytes);
    }
}

/// The lines of one message, and the channel for their outcome.
pub(super) struct Entry {
    pub(super) bucket: MetricBucket,
    pub(super) lines: Lines,
    pub(super) outcome: oneshot::Sender<Outcome>,
    /// Released when the outcome is decided.
    pub(super) held_bytes: HeldBytes,
}

/// The messages of one batch.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    pub(super) lines: usize,
    pub(super) bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, entry: Entry) {
        self.lines += entry.lines.count();
        self.bytes += entry.lines.bytes();
        self.entries.push(entry);
    }

    /// Splits the batch by bucket, because a request writes to one bucket. Nearly always there is
    /// one.
    pub(super) fn by_bucket(self) -> Vec<(MetricBucket, Self)> {
        let mut parts: Vec<(MetricBucket, Self)> = Vec::with_capacity(1);
        for entry in self.entries {
            match parts.iter_mut().find(|(bucket, _)| *bucket == entry.bucket) {
                Some((_, part)) => part.push(entry),
                None => {
                    let mut part = Self::default();
                    let bucket = entry.bucket.clone();
                    part.push(entry);
                    parts.push((bucket, part));
                }
            }
        }
        parts
    }

    pub(super) fn is_full(&self, settings: &SinkSettings) -> bool {
        self.lines >= settings.max_lines || self.bytes >= settings.max_bytes
    }

    pub(super) fn fits(&self, entry: &Entry, settings: &SinkSettings) -> bool {
        self.entries.is_empty()
            || (self.lines + entry.lines.count() <= settings.max_lines
                && self.bytes + entry.lines.bytes() <= settings.max_bytes)
    }
}
