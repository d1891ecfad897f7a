//! Assignment of partitions: leases, shared fairly among the processes that run ingest.

use std::collections::HashMap;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use futures::future::join_all;
use muster_eventlog::{AppendError, EventLog, Lease, StoreError, events_reader};
use muster_schemas::subjects::PARTITIONS;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::worker::{Worker, WorkerError};
use crate::counters::WorkedPartition;
use crate::streams::Copies;

/// Lifetime of a lease: the longest interruption after a crash.
const LEASE_TTL: Duration = Duration::from_secs(6);
/// Interval at which leases are renewed and free ones are acquired.
const LEASE_RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Delay before a failed worker is restarted.
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// Timeout for a worker's current batch when the worker is stopped.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of partitions of a process when `holders` processes share them.
fn fair_share(holders: usize) -> usize {
    (PARTITIONS as usize).div_ceil(holders.max(1))
}

/// Works on as many partitions as this process can get, until `stop`; then releases them.
#[boxed]
pub async fn run(log: EventLog, nats: async_nats::Client, copies: Copies, stop: CancellationToken) {
    let holder = Uuid::new_v4();
    let mut working: HashMap<String, RunningWorker> = HashMap::new();
    let mut interval = tokio::time::interval(LEASE_RENEW_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = interval.tick() => {}
        }
        // A worker ends when another process has taken over; its lease is released.
        let ended: Vec<String> = working
            .iter()
            .filter(|(_, working)| working.task.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            working.remove(&name);
            if let Err(error) = log.release_lease(&name, holder).await {
                tracing::debug!(%error, "failed to release a lease");
            }
        }
        let names: Vec<String> = working.keys().cloned().collect();
        match log.renew_leases(holder, &names, LEASE_TTL).await {
            Ok(held) => {
                // After an outage of PostgreSQL all leases are lost.
                let lost = working.extract_if(|name, _| !held.contains(name));
                let lost: Vec<RunningWorker> = lost
                    .map(|(name, working)| {
                        tracing::warn!(lease = %name, "the lease on a partition was lost");
                        working
                    })
                    .collect();
                join_all(lost.into_iter().map(RunningWorker::finish)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "failed to renew leases");
                continue;
            }
        }
        if let Err(error) = balance_partitions(&log, &nats, copies, holder, &mut working).await {
            tracing::debug!(%error, "failed to look up free partitions");
        }
    }
    join_all(working.into_values().map(RunningWorker::finish)).await;
    if let Err(error) = log.release_leases(holder).await {
        tracing::debug!(
            %error,
            "failed to release leases; other processes take over when they expire"
        );
    }
}

/// Acquires free partitions, and releases one if this process holds more than its share.
async fn balance_partitions(
    log: &EventLog,
    nats: &async_nats::Client,
    copies: Copies,
    holder: Uuid,
    running: &mut HashMap<String, RunningWorker>,
) -> Result<(), StoreError> {
    // A process that holds nothing yet registers itself by this lease.
    let own = format!("ingest-{holder}");
    if log.renew_leases(holder, std::slice::from_ref(&own), LEASE_TTL).await?.is_empty() {
        log.acquire_lease(&own, holder, LEASE_TTL).await?;
    }
    let holders = log.list_leases("ingest-").await?.len();
    let fair = fair_share(holders);
    for partition in 0..PARTITIONS {
        if running.len() >= fair {
            break;
        }
        let name = events_reader(partition);
        if running.contains_key(&name) {
            continue;
        }
        if let Some(lease) = log.acquire_lease(&name, holder, LEASE_TTL).await? {
            let worker = Worker { log: log.clone(), nats: nats.clone(), partition, copies };
            running.insert(name, RunningWorker::start(worker, lease));
        }
    }
    if running.len() > fair
        && let Some(name) = running.keys().next().cloned()
        && let Some(given_back) = running.remove(&name)
    {
        given_back.finish().await;
        log.release_lease(&name, holder).await?;
    }
    Ok(())
}

/// A running worker.
struct RunningWorker {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RunningWorker {
    fn start(worker: Worker, lease: Lease) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(run_worker(worker, lease, stop.clone())), stop }
    }

    /// Stops it after its current batch. A worker that is aborted between a commit and its
    /// acknowledgments loses these, and the devices wait until they resend.
    async fn finish(mut self) {
        self.stop.cancel();
        if timeout(FINISH_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Restarts the worker whenever it fails, until it is stopped or another process has taken over:
/// from then on the partition's consumer belongs to that process. A repeated failure is logged
/// once.
async fn run_worker(worker: Worker, lease: Lease, stop: CancellationToken) {
    let _worked = WorkedPartition(worker.partition);
    let mut reported = String::new();
    loop {
        let Err(error) = worker.run(&lease, &stop).await else { return };
        if is_lease_lost(&error) {
            tracing::info!(partition = worker.partition, "another process holds the partition");
            return;
        }
        let text = error.to_string();
        if text != reported {
            tracing::warn!(partition = worker.partition, error = %text, "a partition stopped; trying again");
            reported = text;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_DELAY) => {}
        }
    }
}

/// Whether the error means that another process holds the lease.
fn is_lease_lost(error: &WorkerError) -> bool {
    matches!(error, WorkerError::Append(AppendError::Fenced(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_gets_a_fair_share_and_all_partitions_are_assigned() {
        for holders in 1..40 {
            assert!(fair_share(holders) * holders >= PARTITIONS as usize);
            assert!(fair_share(holders) >= 1);
        }
    }
}
