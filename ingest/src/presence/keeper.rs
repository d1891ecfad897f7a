//! The keeper: one process at a time turns the broker's connections into presence events.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use muster_eventlog::{
    Append, AppendError, Batch, EventLog, Expected, NewEvent, StoreError, StreamAppend,
};
use muster_schemas::events::DisconnectReason;
use muster_schemas::{Event, Hash, ProjectId, StreamName, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::advisories::{Advisory, Connz};
use super::table::{Change, Connection, Table, Who};

const LEASE: &str = "presence";
const LIFE: Duration = Duration::from_secs(6);
const BEAT: Duration = Duration::from_secs(2);
/// How often the table is compared with the broker's list, in case an advisory was lost.
const SWEEP: Duration = Duration::from_secs(30);
/// How long after the last answer a sweep waits for another server's.
const QUIET: Duration = Duration::from_millis(500);
/// Connections on one page of the broker's list.
const PAGE: usize = 4_096;
/// Changes that go into one append.
const CHANGES: usize = 500;

/// What the keeper works with.
#[derive(Clone, Debug)]
pub struct PresenceOptions {
    /// The log.
    pub log: EventLog,
    /// A connection to the broker's system account.
    pub system: Client,
    /// Tells each time that this connection was made again: advisories may have been missed.
    pub reconnected: tokio::sync::watch::Receiver<u64>,
    /// The public key of the account that the devices are in.
    pub account: String,
}

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("failed to ask the broker for its connections: {0}")]
    Broker(String),
    #[error("the lease on presence was lost")]
    LeaseLost,
}

/// Keeps presence whenever this process holds the lease, until `stop`.
pub async fn run(options: PresenceOptions, stop: CancellationToken) {
    let holder = Uuid::new_v4();
    let mut told = String::new();
    while !stop.is_cancelled() {
        let held = options.log.acquire_lease(LEASE, holder, LIFE).await;
        if let Ok(Some(_)) = held {
            let kept = tokio::select! {
                () = stop.cancelled() => Ok(()),
                kept = keep(&options, holder) => kept,
            };
            if let Err(error) = kept {
                let text = error.to_string();
                if text != told {
                    tracing::warn!(error = %text, "presence is not kept; trying again");
                    told = text;
                }
            }
            if let Err(error) = options.log.release_lease(LEASE, holder).await {
                tracing::debug!(%error, "the lease on presence could not be given back");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(BEAT / 4) => {}
        }
    }
}

/// Where a device's presence stream stands in the log.
type Versions = HashMap<Who, (u64, Hash)>;

async fn keep(options: &PresenceOptions, holder: Uuid) -> Result<(), KeeperError> {
    let broker = |error: async_nats::SubscribeError| KeeperError::Broker(error.to_string());
    let account = &options.account;
    let subject = |what| format!("$SYS.ACCOUNT.{account}.{what}");
    // Listen first, then look at the list: nothing falls between.
    let mut opened = options.system.subscribe(subject("CONNECT")).await.map_err(broker)?;
    let mut closed = options.system.subscribe(subject("DISCONNECT")).await.map_err(broker)?;
    let mut reconnected = options.reconnected.clone();
    reconnected.mark_unchanged();

    let mut versions = read_versions(&options.log).await?;
    let online = versions.iter().filter(|(_, (_, tip))| *tip != Hash::ZERO);
    let mut table = Table::with_online(online.map(|(who, _)| who.clone()));
    let (lists, mut swept) = mpsc::channel::<Option<Vec<Connection>>>(1);
    let mut sweep = tokio::time::interval(SWEEP);
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sweeping = false;
    // While a sweep is under way, advisories wait: a list older than they are must not undo them.
    let mut waiting: Vec<(bool, Advisory)> = Vec::new();
    loop {
        let mut changes = Vec::new();
        tokio::select! {
            _ = beat.tick() => {
                let names = [LEASE.to_owned()];
                if options.log.renew_leases(holder, &names, LIFE).await?.is_empty() {
                    return Err(KeeperError::LeaseLost);
                }
            }
            _ = reconnected.changed() => sweep.reset_immediately(),
            _ = sweep.tick(), if !sweeping => {
                sweeping = true;
                let (system, account, lists) =
                    (options.system.clone(), options.account.clone(), lists.clone());
                tokio::spawn(async move {
                    let _ = lists.send(list_connections(&system, &account).await).await;
                });
            }
            Some(list) = swept.recv() => {
                sweeping = false;
                // Without an answer nothing is known: nobody is declared offline for that.
                changes.extend(list.map(|list| table.swept(list)).unwrap_or_default());
                for (is_open, advisory) in waiting.drain(..) {
                    changes.extend(apply(&mut table, is_open, &advisory));
                }
            }
            Some(message) = opened.next() => {
                note(&mut table, &mut changes, &mut waiting, sweeping, true, &message.payload);
                drain(&mut opened, CHANGES, |payload| {
                    note(&mut table, &mut changes, &mut waiting, sweeping, true, payload);
                });
            }
            Some(message) = closed.next() => {
                note(&mut table, &mut changes, &mut waiting, sweeping, false, &message.payload);
                drain(&mut closed, CHANGES, |payload| {
                    note(&mut table, &mut changes, &mut waiting, sweeping, false, payload);
                });
            }
        }
        for some in changes.chunks(CHANGES) {
            record(&options.log, &mut versions, some).await?;
        }
    }
}

/// Takes what else is there already, without waiting.
fn drain(
    subscriber: &mut async_nats::Subscriber,
    most: usize,
    mut take: impl FnMut(&bytes::Bytes),
) {
    for _ in 0..most {
        match futures::FutureExt::now_or_never(subscriber.next()) {
            Some(Some(message)) => take(&message.payload),
            _ => return,
        }
    }
}

fn note(
    table: &mut Table,
    changes: &mut Vec<Change>,
    waiting: &mut Vec<(bool, Advisory)>,
    sweeping: bool,
    is_open: bool,
    payload: &[u8],
) {
    match serde_json::from_slice::<Advisory>(payload) {
        Ok(advisory) if sweeping => waiting.push((is_open, advisory)),
        Ok(advisory) => changes.extend(apply(table, is_open, &advisory)),
        Err(error) => tracing::warn!(%error, "an advisory of the broker could not be read"),
    }
}

fn apply(table: &mut Table, is_open: bool, advisory: &Advisory) -> Option<Change> {
    if is_open {
        table.opened(advisory.connection()?)
    } else {
        table.closed(&advisory.id(), DisconnectReason::Closed, advisory.reason.clone())
    }
}

/// Every device's connection on every server; `None` when no server answered.
async fn list_connections(system: &Client, account: &str) -> Option<Vec<Connection>> {
    let mut found = Vec::new();
    let mut servers: HashMap<String, usize> = HashMap::new();
    let mut offset = 0;
    loop {
        let answers = ask(system, account, offset).await;
        if offset == 0 && answers.is_empty() {
            return None;
        }
        let mut more = false;
        for answer in &answers {
            found.extend(answer.connections());
            let seen = servers.entry(answer.server_id().to_owned()).or_default();
            more |= answer.has_more(*seen);
            *seen += answer.len();
        }
        if !more {
            return Some(found);
        }
        offset += PAGE;
    }
}

/// One page of every server.
async fn ask(system: &Client, account: &str, offset: usize) -> Vec<Connz> {
    let request = serde_json::json!({
        "acc": account, "auth": true, "limit": PAGE, "offset": offset,
    });
    let inbox = system.new_inbox();
    let Ok(mut replies) = system.subscribe(inbox.clone()).await else { return Vec::new() };
    let sent = system
        .publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox, request.to_string().into())
        .await;
    if sent.is_err() {
        return Vec::new();
    }
    let mut answers = Vec::new();
    let mut patience = Duration::from_secs(5);
    while let Ok(Some(message)) = tokio::time::timeout(patience, replies.next()).await {
        match serde_json::from_slice(&message.payload) {
            Ok(answer) => answers.push(answer),
            Err(error) => tracing::warn!(%error, "the broker's list could not be read"),
        }
        patience = QUIET;
    }
    answers
}

async fn read_versions(log: &EventLog) -> Result<Versions, StoreError> {
    let mut versions = Versions::new();
    for project in log.projects().await? {
        for (device, version, tip) in log.presence(&project).await? {
            versions.insert((project.clone(), device), (version, tip));
        }
    }
    Ok(versions)
}

/// Appends changes. Should another keeper have written meanwhile, the append says so and this one
/// starts over.
async fn record(
    log: &EventLog,
    versions: &mut Versions,
    changes: &[Change],
) -> Result<(), KeeperError> {
    let now = Timestamp::from(std::time::SystemTime::now());
    let mut by_project: HashMap<&ProjectId, Vec<(&Who, Append, u64, Hash)>> = HashMap::new();
    // Two changes of one device in one batch must follow each other.
    let mut ahead: HashMap<&Who, (u64, Hash)> = HashMap::new();
    for Change { who, event } in changes {
        let known = ahead.get(who).or_else(|| versions.get(who)).copied();
        let (version, before) = known.unwrap_or((0, Hash::ZERO));
        let tip = match event {
            Event::DeviceConnected(connected) => Hash::of(connected.connection.as_bytes()),
            _ => Hash::ZERO,
        };
        let expected = if version == 0 {
            Expected::Version(0)
        } else {
            Expected::Tip { version, tip: before }
        };
        let mut append = Append::by("role:ingest");
        append.streams.push(StreamAppend {
            stream: StreamName::DevicePresence(who.1),
            expected,
            events: vec![NewEvent::server(event, now)],
            tip: Some(tip),
        });
        ahead.insert(who, (version + 1, tip));
        by_project.entry(&who.0).or_default().push((who, append, version + 1, tip));
    }
    for (project, entries) in by_project {
        let (news, appends): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .map(|(who, append, version, tip)| ((who, version, tip), append))
            .unzip();
        let batch = Batch { appends, offset: None };
        let results = log.append_batch(project, batch).await?;
        for ((who, version, tip), result) in news.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    versions.insert(who.clone(), (version, tip));
                }
                Err(AppendError::NoProject(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
