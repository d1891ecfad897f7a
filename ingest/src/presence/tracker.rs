//! The presence tracker: one process at a time turns the broker's connections into presence events.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::{Client, Message};
use async_recursion::async_recursion as boxed;
use futures::{FutureExt, StreamExt};
use muster_eventlog::{AppendError, EventLog, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::advisories::Advisory;
use super::record::Recorder;
use super::sweep::{self, Responses, Servers};
use super::table::{Change, Table};
use crate::counters;

const LEASE: &str = muster_eventlog::PRESENCE_LEASE;
const LEASE_TTL: Duration = Duration::from_secs(6);
const LEASE_RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Delay before the broker is queried again if its list leaves a doubt.
const REQUERY_DELAY: Duration = Duration::from_secs(3);
/// Maximum number of changes in one append.
const MAX_CHANGES_PER_APPEND: usize = 500;

/// The dependencies and options of the presence tracker.
#[derive(Clone, Debug)]
pub struct PresenceOptions {
    /// The log.
    pub log: EventLog,
    /// A connection to the broker's system account.
    pub system: Client,
    /// Changes at each reconnect of `system`: advisories may have been missed.
    pub reconnected: tokio::sync::watch::Receiver<u64>,
    /// The public key of the devices' account.
    pub account: String,
    /// Silence after which a device is offline although its connection exists. Checked once in each
    /// sweep. Pings do not count, responses to the broker's pings do.
    pub offline_after: Duration,
    /// Interval at which the table is compared with the broker's list, in case an advisory was lost.
    pub sweep_interval: Duration,
    /// Maximum number of connections in one response of a server; more are queried page by page.
    pub page_size: usize,
}

impl PresenceOptions {
    /// Returns the defaults: offline after 60 s, a sweep every 20 s, 20,000 connections per page.
    #[must_use]
    pub const fn new(
        log: EventLog,
        system: Client,
        reconnected: tokio::sync::watch::Receiver<u64>,
        account: String,
    ) -> Self {
        Self {
            log,
            system,
            reconnected,
            account,
            offline_after: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(20),
            page_size: 20_000,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum TrackerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("failed to listen to the broker's advisories: {0}")]
    Broker(String),
    #[error("the lease on presence was lost")]
    LeaseLost,
}

/// Tracks presence while this process holds the lease, until `stop`.
#[boxed]
pub async fn run(options: PresenceOptions, stop: CancellationToken) {
    let holder = Uuid::new_v4();
    let mut reported = String::new();
    while !stop.is_cancelled() {
        let held = options.log.acquire_lease(LEASE, holder, LEASE_TTL).await;
        if let Ok(Some(_)) = held {
            let kept = tokio::select! {
                () = stop.cancelled() => Ok(()),
                kept = track(&options, holder) => kept,
            };
            counters::online(0);
            if let Err(error) = kept {
                let text = error.to_string();
                if text != reported {
                    tracing::warn!(error = %text, "failed to track presence; trying again");
                    reported = text;
                }
            }
            if let Err(error) = options.log.release_lease(LEASE, holder).await {
                tracing::debug!(%error, "failed to release the lease on presence");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LEASE_RENEW_INTERVAL / 4) => {}
        }
    }
}

async fn track(options: &PresenceOptions, holder: Uuid) -> Result<(), TrackerError> {
    let broker = |error: async_nats::SubscribeError| TrackerError::Broker(error.to_string());
    // One subscription delivers the advisories of a connection in order. Subscribe first, then query
    // the list: nothing is missed in between.
    let subject = format!("$SYS.ACCOUNT.{}.*", options.account);
    let mut advisories = options.system.subscribe(subject).await.map_err(broker)?;
    let mut reconnected = options.reconnected.clone();
    reconnected.mark_unchanged();

    let mut recorder = Recorder::open(options.log.clone()).await?;
    let mut table = Table::new(options.offline_after, recorder.online());
    let mut servers = Servers::default();
    let (lists, mut swept) = mpsc::channel::<Option<Responses>>(1);
    let mut sweep_at = tokio::time::Instant::now();
    let mut is_sweeping = false;
    let mut interval = tokio::time::interval(LEASE_RENEW_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut changes = Vec::new();
        tokio::select! {
            _ = interval.tick() => {
                let names = [LEASE.to_owned()];
                if options.log.renew_leases(holder, &names, LEASE_TTL).await?.is_empty() {
                    return Err(TrackerError::LeaseLost);
                }
            }
            Ok(()) = reconnected.changed() => sweep_at = tokio::time::Instant::now(),
            () = tokio::time::sleep_until(sweep_at), if !is_sweeping => {
                is_sweeping = true;
                // The next sweep, unless something else causes an earlier one.
                sweep_at = tokio::time::Instant::now() + options.sweep_interval;
                table.start_sweep();
                start_sweep(options.clone(), servers.ids(), lists.clone());
            }
            Some(responses) = swept.recv() => {
                is_sweeping = false;
                let is_answered = responses.is_some();
                match responses {
                    Some(responses) => {
                        let timeout = options.offline_after;
                        let sweep = servers.combine(responses, Instant::now(), timeout);
                        changes = table.finish_sweep(sweep);
                    }
                    None => table.fail_sweep(),
                }
                if !is_answered || table.needs_requery() {
                    sweep_at = sweep_at.min(tokio::time::Instant::now() + REQUERY_DELAY);
                }
            }
            message = advisories.next() => {
                let Some(message) = message else {
                    return Err(TrackerError::Broker("the subscription ended".to_owned()));
                };
                apply_message(&mut table, &mut changes, &message);
                // Other pending changes go into the same append.
                while changes.len() < MAX_CHANGES_PER_APPEND
                    && let Some(Some(message)) = advisories.next().now_or_never()
                {
                    apply_message(&mut table, &mut changes, &message);
                }
            }
        }
        for some in changes.chunks(MAX_CHANGES_PER_APPEND) {
            recorder.record(some).await?;
        }
        counters::online(table.online());
    }
}

/// Queries the broker's list of connections in the background.
fn start_sweep(
    options: PresenceOptions,
    server_ids: HashSet<String>,
    lists: mpsc::Sender<Option<Responses>>,
) {
    tokio::spawn(async move {
        let PresenceOptions { system, account, page_size, .. } = options;
        let query = sweep::query_servers(&system, &account, page_size, &server_ids);
        let _ = lists.send(query.await).await;
    });
}

fn apply_message(table: &mut Table, changes: &mut Vec<Change>, message: &Message) {
    match Advisory::parse(&message.subject, &message.payload) {
        Ok(advisory) => {
            changes.extend(advisory.and_then(|advisory| table.apply_advisory(advisory)));
        }
        Err(error) => tracing::warn!(%error, "failed to decode an advisory of the broker"),
    }
}
