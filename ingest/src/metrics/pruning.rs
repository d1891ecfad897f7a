//! Deletion of consumed batches from the stream of metric batches; only this module deletes them.
//!
//! The stream is never full of consumed batches, and never drops one that was not consumed: when it
//! is full of those, it refuses new ones, and devices keep their batches. Consumed batches are kept
//! for some time, because the query role finds each device's newest batch there.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use muster_schemas::subjects;
use tokio_util::sync::CancellationToken;

use crate::{counters, streams};

/// Interval between checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time for which a consumed batch is kept if there is capacity.
const MAX_CONSUMED_AGE: Duration = Duration::from_secs(72 * 3600);
/// Additional age at which batches are deleted, so that each deletion covers an hour.
const AGE_SLACK: Duration = Duration::from_secs(3600);

/// Deletes consumed batches until `stop`.
pub(super) async fn run(nats: async_nats::Client, stop: CancellationToken) {
    let jetstream = jetstream::new(nats);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        if let Err(problem) = prune(&jetstream).await {
            tracing::debug!(problem, "failed to delete consumed batches");
        }
    }
}

async fn prune(jetstream: &jetstream::Context) -> Result<(), String> {
    let to_text = |error: &dyn std::error::Error| error.to_string();
    let stream = jetstream.get_stream(subjects::METRICS_STREAM).await.map_err(|e| to_text(&e))?;
    let consumer =
        stream.consumer_info(streams::METRICS_CONSUMER).await.map_err(|e| to_text(&e))?;
    let info = stream.cached_info();
    let fill = StreamFill {
        first: info.state.first_sequence,
        last: info.state.last_sequence,
        bytes: info.state.bytes,
        limit: u64::try_from(info.config.max_bytes).unwrap_or(0),
        unconsumed: consumer.ack_floor.stream_sequence + 1,
    };
    let waiting = consumer.num_pending + consumer.num_ack_pending as u64;
    counters::metric_stream(waiting, fill.bytes, fill.limit);
    let oldest = i128::from(std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()));
    let age = oldest - i128::from(info.state.first_timestamp.unix_timestamp());
    let mut end = fill.end_of_older_half();
    if fill.has_consumed() && age > i128::from((MAX_CONSUMED_AGE + AGE_SLACK).as_secs()) {
        end = end.max(end_of_expired(&stream, &fill).await);
    }
    if let Some(end) = end {
        let purged = stream.purge().sequence(end).await.map_err(|e| to_text(&e))?;
        tracing::debug!(purged = purged.purged, "consumed batches were deleted");
    }
    Ok(())
}

/// Fill level of the stream; positions are sequence numbers.
#[derive(Clone, Copy, Debug)]
struct StreamFill {
    first: u64,
    last: u64,
    bytes: u64,
    /// Maximum size in bytes; 0: unlimited.
    limit: u64,
    /// The first message that may not be consumed.
    unconsumed: u64,
}

impl StreamFill {
    fn has_consumed(&self) -> bool {
        self.unconsumed > self.first
    }

    /// When the stream is more than half full: the end of its older half, as far as that was
    /// consumed.
    fn end_of_older_half(&self) -> Option<u64> {
        let is_filling = self.limit > 0 && self.bytes > self.limit / 2;
        let half = self.first + (self.last + 1).saturating_sub(self.first).div_ceil(2);
        (is_filling && self.has_consumed()).then(|| half.min(self.unconsumed))
    }
}

/// The end of the consumed batches that are too old, by binary search, because the sequence numbers
/// have no significant gaps.
async fn end_of_expired(stream: &stream::Stream, fill: &StreamFill) -> Option<u64> {
    let (mut old, mut young) = (fill.first, fill.unconsumed);
    let now = i128::from(std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()));
    while old < young {
        let middle = old + (young - old) / 2;
        let message = stream.get_raw_message(middle).await.ok()?;
        if now - i128::from(message.time.unix_timestamp()) > i128::from(MAX_CONSUMED_AGE.as_secs())
        {
            old = middle + 1;
        } else {
            young = middle;
        }
    }
    (old > fill.first).then_some(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_consumed_batches_are_deleted_and_only_when_space_is_needed() {
        let end = |bytes, unconsumed| {
            StreamFill { first: 101, last: 200, bytes, limit: 1000, unconsumed }.end_of_older_half()
        };
        assert_eq!(end(500, 201), None);
        assert_eq!(end(501, 201), Some(151));
        assert_eq!(end(1000, 120), Some(120));
        assert_eq!(end(1000, 101), None);
        assert_eq!(end(1000, 1), None);
        let one = StreamFill { first: 7, last: 7, bytes: 9, limit: 10, unconsumed: 8 };
        assert_eq!(one.end_of_older_half(), Some(8));
        let unlimited = StreamFill { limit: 0, ..one };
        assert_eq!(unlimited.end_of_older_half(), None);
    }
}
