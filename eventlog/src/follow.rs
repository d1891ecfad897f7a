//! Follows the log: by NOTIFY, and by polling in case a notification is lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use muster_schemas::errors::error_chain;
use muster_schemas::{Position, ProjectId};
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::{ACCESS_CHANNEL, AccessChanges};
use crate::appender::NOTIFY_CHANNEL;
use crate::connect::Stores;
use crate::error::StoreError;
use crate::log::EventLog;

/// Poll interval, after which a lost notification is noticed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Tracks the head of every project's log; shared by all readers that wait for new events.
#[derive(Clone, Debug)]
pub struct Follower {
    cached: Arc<watch::Sender<CachedHeads>>,
}

#[derive(Debug, Default)]
struct CachedHeads {
    heads: HashMap<ProjectId, Position>,
    /// Counter of the connection to PostgreSQL that reported it.
    connection: u64,
}

impl Follower {
    /// Follows all logs until `stop`.
    #[must_use]
    pub fn start(log: &EventLog, stop: CancellationToken) -> Self {
        let cached = Arc::new(watch::Sender::new(CachedHeads::default()));
        let stores = log.stores().clone();
        let sender = cached.clone();
        let access = log.inner.access_changes.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(&stores, &sender, &access) => {}
            }
        });
        Self { cached }
    }

    /// Returns the cached head of a project's log.
    #[must_use]
    pub fn head(&self, project: &ProjectId) -> Position {
        self.cached.borrow().heads.get(project).copied().unwrap_or(Position::ZERO)
    }

    /// Returns the cached heads of all logs.
    #[must_use]
    pub fn heads(&self) -> HashMap<ProjectId, Position> {
        self.cached.borrow().heads.clone()
    }

    /// Returns the counter of the connection to PostgreSQL: when it changes, PostgreSQL may have
    /// been restarted.
    pub(crate) fn connection(&self) -> u64 {
        self.cached.borrow().connection
    }

    /// Waits until a project's log exceeds a position; returns its head.
    pub async fn wait_beyond(&self, project: &ProjectId, position: Position) -> Position {
        let mut receiver = self.cached.subscribe();
        let found = receiver
            .wait_for(|state| state.heads.get(project).is_some_and(|head| *head > position))
            .await
            .map(|state| state.heads.get(project).copied().unwrap_or(position));
        match found {
            Ok(head) => head,
            // Unreachable: the sender exists as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until any log exceeds its position; a log without one, until it has an event.
    pub async fn wait_beyond_any(&self, positions: &HashMap<ProjectId, Position>) {
        let mut receiver = self.cached.subscribe();
        let of = |project: &ProjectId| positions.get(project).copied().unwrap_or(Position::ZERO);
        let grown = receiver
            .wait_for(|state| state.heads.iter().any(|(project, head)| *head > of(project)));
        if grown.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the head of any log, or the connection, differs from the given values.
    pub(crate) async fn wait_for_change(
        &self,
        positions: &HashMap<ProjectId, Position>,
        connection: u64,
    ) {
        let mut receiver = self.cached.subscribe();
        let differs = receiver.wait_for(|state| {
            let mut heads = state.heads.iter();
            state.connection != connection
                || heads.any(|(project, head)| positions.get(project).copied() != Some(*head))
        });
        if differs.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Listens and polls; restarts after a failure of either.
async fn follow(stores: &Stores, cached: &watch::Sender<CachedHeads>, access: &AccessChanges) {
    let mut failing = false;
    loop {
        let Err(error) = listen(stores, cached, access, &mut failing).await;
        if !failing {
            failing = true;
            tracing::warn!(
                error = %error_chain(&error),
                "failed to follow the log; trying again"
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn listen(
    stores: &Stores,
    cached: &watch::Sender<CachedHeads>,
    access: &AccessChanges,
    failing: &mut bool,
) -> Result<std::convert::Infallible, StoreError> {
    let mut listener = PgListener::connect_with(&stores.sql).await.map_err(StoreError::Listen)?;
    let channels = [NOTIFY_CHANNEL, ACCESS_CHANNEL];
    listener.listen_all(channels).await.map_err(StoreError::Listen)?;
    // The loss is reported before a new connection is opened.
    listener.eager_reconnect(false);
    let mut is_new = true;
    loop {
        poll(stores, cached).await?;
        *failing = false;
        if std::mem::take(&mut is_new) {
            cached.send_modify(|state| state.connection += 1);
            access.add();
        }
        // Until the poll is due, only notifications advance the heads.
        let due = tokio::time::sleep(POLL_INTERVAL);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => break,
                notification = listener.try_recv() => {
                    let notification = notification.map_err(StoreError::Listen)?;
                    // The connection was lost; the next call opens a new one.
                    let Some(notification) = notification else {
                        is_new = true;
                        break;
                    };
                    if notification.channel() == ACCESS_CHANNEL {
                        access.add();
                    } else if let Some((project, position)) = parse(notification.payload()) {
                        advance(cached, project, position);
                    }
                }
            }
        }
    }
}

fn parse(payload: &str) -> Option<(ProjectId, Position)> {
    let (project, position) = payload.rsplit_once(':')?;
    Some((project.parse().ok()?, position.parse().ok()?))
}

/// Advances a head. A notification with an older position was delayed in a queue.
fn advance(cached: &watch::Sender<CachedHeads>, project: ProjectId, position: Position) {
    cached.send_if_modified(|state| {
        let head = state.heads.entry(project).or_default();
        let is_further = position > *head;
        *head = position.max(*head);
        is_further
    });
}

/// Queries all heads. Any difference counts, even a smaller position: the database may have been
/// restored.
async fn poll(stores: &Stores, cached: &watch::Sender<CachedHeads>) -> Result<(), StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT project, position FROM heads")
        .fetch_all(&stores.sql)
        .await
        .map_err(StoreError::Listen)?;
    let heads: HashMap<ProjectId, Position> = rows
        .into_iter()
        .filter_map(|(project, position)| {
            Some((project.parse().ok()?, Position(position.unsigned_abs())))
        })
        .collect();
    cached.send_if_modified(|state| {
        let is_new = state.heads != heads;
        state.heads = heads;
        is_new
    });
    Ok(())
}
