//! From JetStream into the event log and the metric store.
//!
//! It makes no decisions: signed events of devices go into the log, measurements into the time-series
//! store, and messages that can go to neither are stored as dead letters with their cause. A message
//! is acknowledged only after that.

mod counters;
pub mod events;
pub mod metrics;
pub mod presence;
pub mod streams;

use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use muster_eventlog::EventLog;
use muster_metric_store::{InfluxClient, StoreError, StoreSettings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use metrics::reader::ReaderOptions;

/// The dependencies of the ingest role.
#[derive(Debug)]
pub struct IngestOptions {
    /// The log.
    pub log: EventLog,
    /// A connection to the broker, in the servers' account.
    pub nats: async_nats::Client,
    /// The metric store, which this role writes.
    pub store: StoreSettings,
    /// Limits on the metrics of one device.
    pub limits: metrics::DeviceLimits,
    /// Options of presence tracking.
    pub presence: presence::PresenceOptions,
    /// Number of the broker's servers that hold each stream.
    pub copies: streams::Copies,
}

/// Interval between deletions of expired rows.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// Runs the ingest role until `stop`; then writes buffered data and releases its leases.
///
/// # Errors
/// When the metric store's settings are unusable.
#[boxed]
pub async fn run(options: IngestOptions, stop: CancellationToken) -> Result<(), StoreError> {
    let IngestOptions { log, nats, store, limits, presence, copies } = options;
    counters::describe();
    let client = Arc::new(InfluxClient::new(store)?);
    let buckets = metrics::MetricBuckets::follow(log.clone(), client.clone(), stop.clone());
    let (sink, sink_task) = metrics::MetricSink::start(client, metrics::SinkSettings::default());
    let mut parts = JoinSet::new();
    parts.spawn(metrics::export_counters(sink.counters().clone(), stop.clone()));
    parts.spawn(events::run(log.clone(), nats.clone(), copies, stop.clone()));
    let reader = ReaderOptions { log: log.clone(), sink, buckets, copies, limits };
    parts.spawn(metrics::reader::run(reader, nats, stop.clone()));
    parts.spawn(presence::run(presence, stop.clone()));
    parts.spawn(prune(log, stop));
    while let Some(ended) = parts.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of ingest ended unexpectedly");
        }
    }
    sink_task.drain(Duration::from_secs(5)).await;
    Ok(())
}

/// Deletes expired rows.
async fn prune(log: EventLog, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PRUNE_INTERVAL) => {}
        }
        for pruned in [log.prune_append_ids().await, log.prune_dead_letters().await] {
            if let Err(error) = pruned {
                tracing::debug!(%error, "failed to delete old rows");
            }
        }
    }
}
