//! Batches as messages of the size that the broker takes.

use super::MetricBatch;

/// Maximum size of a batch on the wire, in bytes. The broker drops a larger one without an error:
/// its memory depends on the largest message, so the limit is low. See [`MetricBatch::messages`].
pub const MAX_BATCH_BYTES: usize = 64 << 10;

impl MetricBatch {
    /// Encodes the batch with `encode` as messages of at most [`MAX_BATCH_BYTES`]: halves the points
    /// until each part fits. Drops a point that does not fit alone; also returns the number of these.
    #[must_use]
    pub fn messages(self, encode: impl Fn(&Self) -> Vec<u8> + Copy) -> (Vec<Vec<u8>>, usize) {
        let bytes = encode(&self);
        if bytes.len() <= MAX_BATCH_BYTES {
            return (vec![bytes], 0);
        }
        let Self { time, mut points } = self;
        if points.len() < 2 {
            return (Vec::new(), points.len());
        }
        let rest = points.split_off(points.len() / 2);
        let (mut messages, dropped) = Self { time, points }.messages(encode);
        let (more, dropped_too) = Self { time, points: rest }.messages(encode);
        messages.extend(more);
        (messages, dropped + dropped_too)
    }
}
