//! Follows the live metrics in JetStream: first the last message of each subject, then new
//! messages.
//!
//! The consumer is ephemeral, belongs to this process and is in the broker's memory: when the
//! consumer, the stream or the broker is lost, a new one is created, with unlimited retries. Ingest
//! sends the acknowledgments and writes to InfluxDB.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_recursion::async_recursion as boxed;
use futures::StreamExt;
use muster_eventlog::EventLog;
use muster_schemas::errors::error_chain;
use muster_schemas::{DeviceId, ProjectId, Timestamp, subjects};
use tokio_util::sync::CancellationToken;

use super::LatestMetrics;
use crate::projections::devices;

/// Interval between attempts to create a consumer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between removals of deleted devices.
const PRUNE_INTERVAL: Duration = Duration::from_secs(300);
/// Stored subjects of live batches.
pub(super) const SUBJECTS: &str = "met.*.*.*.live.>";

/// The broker could not be read; the variant names the failed step.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// The stream does not exist, or the broker is unavailable.
    #[error("failed to look up the stream METRICS")]
    Stream(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The consumer could not be created.
    #[error("failed to create a consumer of the stream METRICS")]
    Consumer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The subscription failed.
    #[error("failed to read the stream METRICS")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The subscription ended without an error.
    #[error("the consumer of the stream METRICS ended")]
    Ended,
}

/// Follows the live metrics until `stop`.
#[boxed]
pub async fn run(nats: async_nats::Client, latest: LatestMetrics, stop: CancellationToken) {
    let mut complained = String::new();
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = follow(&nats, &latest) => ended,
        };
        if let Err(error) = ended {
            let text = error_chain(&error);
            if text != complained {
                tracing::warn!(error = %text, "failed to follow the newest metrics; trying again");
                complained = text;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
        }
    }
}

async fn follow(nats: &async_nats::Client, latest: &LatestMetrics) -> Result<(), FollowError> {
    let stream = async_nats::jetstream::new(nats.clone())
        .get_stream(subjects::METRICS_STREAM)
        .await
        .map_err(|error| FollowError::Stream(error.into()))?;
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subject: SUBJECTS.to_owned(),
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(60),
            ..pull::Config::default()
        })
        .await
        .map_err(|error| FollowError::Consumer(error.into()))?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(1_000)
        .heartbeat(Duration::from_secs(5))
        .expires(Duration::from_secs(20))
        .messages()
        .await
        .map_err(|error| FollowError::Read(error.into()))?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| FollowError::Read(error.into()))?;
        store_message(latest, &message)?;
    }
    Err(FollowError::Ended)
}

/// Stores the batch of a message. Skips one that cannot be decoded: ingest makes it a dead letter.
pub(super) fn store_message(latest: &LatestMetrics, message: &Message) -> Result<(), FollowError> {
    let info = message.info().map_err(FollowError::Read)?;
    let received_at = info.published.unix_timestamp_nanos() / 1000;
    let received_at = Timestamp(i64::try_from(received_at).unwrap_or(0));
    let Some((project, device, rest)) = subjects::parse_stored(&message.subject) else {
        return Ok(());
    };
    if !rest.starts_with("live.") {
        return Ok(());
    }
    if let Err(error) = latest.update(&project, device, &message.payload, received_at) {
        tracing::debug!(%project, %device, %error, "skipped a metric batch");
    }
    Ok(())
}

/// Removes deleted devices every few minutes, until `stop`.
#[boxed]
pub async fn prune(log: EventLog, latest: LatestMetrics, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PRUNE_INTERVAL) => {}
        }
        // A device that was registered after this list was read may be missing for a few seconds,
        // until its next batch.
        let sql =
            format!("SELECT project, device FROM {} WHERE status <> 'deleted'", devices::TABLE);
        let rows: Result<Vec<(String, uuid::Uuid)>, _> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&log.stores().sql).await;
        match rows {
            Ok(rows) => {
                let living: HashSet<(ProjectId, DeviceId)> = rows
                    .into_iter()
                    .filter_map(|(project, device)| Some((project.parse().ok()?, DeviceId(device))))
                    .collect();
                latest.retain(|project, device| living.contains(&(project.clone(), device)));
            }
            Err(error) => tracing::debug!(%error, "failed to prune the newest metrics"),
        }
    }
}
