//! Reads recent batches at the start of the process, so that values that a device does not report
//! with each batch are known too, and how often it reports them.
//!
//! [`super::follow`] reads only the last batch of each device. The broker has those of the last
//! days: all of a large fleet would take minutes, so the number is limited.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::State;
use async_recursion::async_recursion as boxed;
use futures::StreamExt;
use muster_schemas::errors::error_chain;
use muster_schemas::subjects;
use tokio_util::sync::CancellationToken;

use super::LatestMetrics;
use super::follow::{FollowError, SUBJECTS, store_message};

/// Maximum number of batches that are read: of 100 devices that report every 10 s, those of more
/// than an hour.
const MAX_BATCHES: u64 = 50_000;
/// Maximum size of the batches that are read, in bytes.
const MAX_BYTES: u64 = 128 << 20;
/// Interval between attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the recent batches once, with unlimited retries until `stop`.
#[boxed]
pub async fn read(nats: async_nats::Client, latest: LatestMetrics, stop: CancellationToken) {
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = read_once(&nats, &latest) => done,
        };
        match done {
            Ok(batches) => {
                tracing::debug!(batches, "read recent metric batches");
                return;
            }
            Err(error) => tracing::debug!(error = %error_chain(&error), "failed to read batches"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
        }
    }
}

/// Reads the batches that are stored now, and returns their number.
async fn read_once(nats: &async_nats::Client, latest: &LatestMetrics) -> Result<u64, FollowError> {
    let stream = async_nats::jetstream::new(nats.clone())
        .get_stream(subjects::METRICS_STREAM)
        .await
        .map_err(|error| FollowError::Stream(error.into()))?;
    let start_sequence = first_to_read(&stream.cached_info().state);
    let mut consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            ack_policy: AckPolicy::None,
            filter_subject: SUBJECTS.to_owned(),
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(60),
            ..pull::Config::default()
        })
        .await
        .map_err(|error| FollowError::Consumer(error.into()))?;
    let pending = consumer.info().await.map_err(|error| FollowError::Consumer(error.into()))?;
    let pending = pending.num_pending;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(1_000)
        .heartbeat(Duration::from_secs(5))
        .expires(Duration::from_secs(20))
        .messages()
        .await
        .map_err(|error| FollowError::Read(error.into()))?;
    // Messages that arrive meanwhile are not counted here: `follow` reads them.
    for _ in 0..pending {
        let message = messages.next().await.ok_or(FollowError::Ended)?;
        store_message(latest, &message.map_err(|error| FollowError::Read(error.into()))?)?;
    }
    Ok(pending)
}

/// Returns the sequence of the first batch to read.
fn first_to_read(state: &State) -> u64 {
    let average = (state.bytes / state.messages.max(1)).max(1);
    let batches = MAX_BATCHES.min(MAX_BYTES / average);
    state.last_sequence.saturating_sub(batches).saturating_add(1).max(state.first_sequence).max(1)
}
