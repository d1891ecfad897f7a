//! Runs one projection over all projects, from their checkpoints, until it is stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_schemas::errors::error_chain;
use muster_schemas::{Position, ProjectId};
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use super::{Projection, ProjectionError, Transaction};
use crate::error::{ErrorContext, StoreError};
use crate::failure::{Cause, Failure, FailureWatch};
use crate::follow::Follower;
use crate::integers::{as_i64, number};
use crate::log::EventLog;
use crate::read::ReadFilter;
use crate::stored_event::StoredEvent;
use crate::traces;

/// Maximum number of events in one transaction.
const MAX_BATCH_EVENTS: u32 = 5_000;
/// Interval at which a projection of few types stores its checkpoint while no event of them occurs,
/// instead of with each commit of the log.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after a failure of the store.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Delay until this process's own connection reports what another process already knows.
const NOTIFICATION_DELAY: Duration = Duration::from_millis(20);
/// Delay after an event that cannot be applied; only a new release fixes that.
const STOPPED_RETRY_DELAY: Duration = Duration::from_secs(30);

const UPDATE_CHECKPOINT: &str = "UPDATE checkpoints
     SET position = $4, failure = NULL, updated_at = clock_timestamp()
     WHERE projection = $1 AND project = $2 AND position = $3
       AND $4 <= (SELECT position FROM heads WHERE project = $2)
       AND ($5::bytea IS NULL
            OR $5 = (SELECT salt FROM events WHERE project = $2 AND position = $4))";

/// Position of a projection in each project, for readers that wait for it.
#[derive(Clone, Debug)]
pub struct Progress {
    positions: Arc<watch::Sender<HashMap<ProjectId, Position>>>,
    failure: FailureWatch,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            positions: Arc::new(watch::Sender::new(HashMap::new())),
            failure: FailureWatch::default(),
        }
    }
}

impl Progress {
    /// Returns the position that the projection has reached.
    #[must_use]
    pub fn position(&self, project: &ProjectId) -> Position {
        self.positions.borrow().get(project).copied().unwrap_or(Position::ZERO)
    }

    /// Returns why the projection is stopped, and since when; `None` while it runs.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure.current()
    }

    /// Waits until the projection has reached a position; false after a timeout.
    pub async fn wait_for(
        &self,
        project: &ProjectId,
        position: Position,
        timeout: Duration,
    ) -> bool {
        let mut receiver = self.positions.subscribe();
        let reached = receiver.wait_for(|positions| {
            positions.get(project).copied().unwrap_or(Position::ZERO) >= position
        });
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    /// Returns a receiver that changes whenever the position of any project changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<HashMap<ProjectId, Position>> {
        self.positions.subscribe()
    }

    fn set(&self, project: &ProjectId, position: Position) {
        self.positions.send_if_modified(|positions| {
            positions.insert(project.clone(), position) != Some(position)
        });
    }
}

/// The next events of a projection.
struct Batch {
    /// Events of the declared types.
    events: Vec<Arc<StoredEvent>>,
    /// Position up to which the log was read.
    last: Position,
    /// Salt of the event at that position, if it may come from memory.
    salt: Option<Bytes>,
}

/// Runs one projection.
#[derive(Debug)]
pub struct Runner<P> {
    log: EventLog,
    projection: P,
    progress: Progress,
    /// Position up to which each project's log was read.
    reached: HashMap<ProjectId, Position>,
    /// Position of each project's stored checkpoint; less than `reached` if no event of the
    /// declared types followed.
    checkpoints: HashMap<ProjectId, Position>,
    /// Time at which each checkpoint was last stored.
    stored_at: HashMap<ProjectId, Instant>,
}

impl<P: Projection> Runner<P> {
    /// Creates the projection's tables if they do not exist.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn open(log: EventLog, projection: P) -> Result<Self, StoreError> {
        let client = log.stores().connection().await?;
        // Two processes that start concurrently must not both create them.
        let script = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('muster-projection:{}', 0)); {}; COMMIT",
            projection.name(),
            projection.tables().trim().trim_end_matches(';'),
        );
        if let Err(error) = client.batch_execute(&script).await {
            let _ = client.batch_execute("ROLLBACK").await;
            // For a database user without that right, `muster bootstrap` has created the tables.
            let is_forbidden = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
            let exists = client
                .query_one(
                    "SELECT EXISTS (SELECT FROM pg_class WHERE pg_table_is_visible(oid)
                         AND (relname = $1 OR starts_with(relname, $1 || '_')))",
                    &[&projection.name()],
                )
                .await
                .while_trying("look up a projection's tables")?;
            if !(is_forbidden && exists.get(0)) {
                return Err(error).while_trying("create a projection's tables");
            }
        }
        drop(client);
        Ok(Self {
            log,
            projection,
            progress: Progress::default(),
            reached: HashMap::new(),
            stored_at: HashMap::new(),
            checkpoints: HashMap::new(),
        })
    }

    /// Returns the same runner with a shared progress.
    #[must_use]
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// Returns its progress.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Follows the log until `stop`.
    pub async fn run(mut self, follower: Follower, stop: CancellationToken) {
        let mut complained = String::new();
        let mut connection = follower.connection();
        while !stop.is_cancelled() {
            if connection != follower.connection() {
                connection = follower.connection();
                self.discard_caches();
            }
            let heads = follower.heads();
            let wait = match self.catch_up_to(&heads).await {
                Ok(()) => {
                    complained.clear();
                    self.progress.failure.succeeded();
                    let projects = self.reached.clone();
                    let is_stored = self.reached == self.checkpoints;
                    let is_ahead = projects
                        .iter()
                        .any(|(project, at)| heads.get(project).is_some_and(|head| at > head));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(CHECKPOINT_INTERVAL), if !is_stored => continue,
                        () = tokio::time::sleep(NOTIFICATION_DELAY), if is_ahead => continue,
                        () = follower.wait_for_change(&projects, connection), if !is_ahead => continue,
                    }
                }
                Err(error) => {
                    let text = error_chain(&error);
                    self.progress.failure.failed(match &error {
                        ProjectionError::Store(error) => Cause::of(error),
                        ProjectionError::CannotApply { .. } => Cause::Event,
                    });
                    if text != complained {
                        tracing::error!(projection = self.projection.name(), error = %text, "a projection stopped");
                        complained = text;
                    }
                    if matches!(error, ProjectionError::CannotApply { .. }) {
                        STOPPED_RETRY_DELAY
                    } else {
                        RETRY_DELAY
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Discards caches: PostgreSQL was restarted, and may have lost its newest rows and
    /// checkpoints, which it loses together.
    fn discard_caches(&mut self) {
        self.projection.discard_cache();
        self.reached.clear();
        self.checkpoints.clear();
        // A checkpoint is stored with the next batch, even an empty one: that compares the log with
        // the events in memory.
        self.stored_at.clear();
        self.log.inner.recent.clear();
    }

    /// Applies all events that are now in the logs.
    ///
    /// # Errors
    /// When an event cannot be applied, or PostgreSQL fails.
    pub async fn catch_up(&mut self) -> Result<(), ProjectionError> {
        let heads = self.log.heads().await?;
        self.catch_up_to(&heads).await
    }

    async fn catch_up_to(
        &mut self,
        heads: &HashMap<ProjectId, Position>,
    ) -> Result<(), ProjectionError> {
        for (project, head) in heads {
            while self.step(project, *head).await? {}
        }
        Ok(())
    }

    /// Applies one batch of a log with at least `head` events; returns whether there are more.
    async fn step(&mut self, project: &ProjectId, head: Position) -> Result<bool, ProjectionError> {
        let position = match self.reached.get(project) {
            Some(position) => *position,
            None => self.load_checkpoint(project).await?,
        };
        if head < position {
            // Another process has read a newer head and was faster; or the database was restored
            // during the run, with matching rows and checkpoint: then the caches are invalid.
            let checkpoint = self.load_checkpoint(project).await?;
            if checkpoint < position {
                self.projection.discard_cache();
            }
            return Ok(checkpoint < head);
        }
        let Batch { events, last, salt } = self.read_batch(project, position, head).await?;
        let is_full = last < head;
        let events = match self.projection.needs_authority() {
            true => self.log.authentic(project, events).await,
            false => events,
        };
        let stored = self.checkpoints.get(project).copied().unwrap_or(position);
        let is_early =
            self.stored_at.get(project).is_some_and(|at| at.elapsed() < CHECKPOINT_INTERVAL);
        if events.is_empty() && (is_early || stored == last) {
            self.set_reached(project, last);
            return Ok(is_full);
        }
        let started_at = traces::now();
        match self.commit(project, stored, last, salt.as_deref(), &events).await {
            Ok(true) => {
                traces::emit_projected(project, self.projection.name(), started_at, &events);
                self.checkpoints.insert(project.clone(), last);
                self.stored_at.insert(project.clone(), Instant::now());
                self.set_reached(project, last);
                Ok(is_full)
            }
            Ok(false) => {
                // Another runner of this projection was faster: continue from its checkpoint. Or
                // the log is shorter than `head`: then it was restored, and is read again.
                self.projection.discard_cache();
                if self.load_checkpoint(project).await? != stored {
                    return Ok(true);
                }
                self.log.inner.recent.forget(project);
                Err(restored_error(project))
            }
            Err(error) => {
                self.projection.discard_cache();
                self.checkpoints.remove(project);
                self.reached.remove(project);
                if let ProjectionError::CannotApply { .. } = &error {
                    self.store_failure(project, &error).await;
                }
                Err(error)
            }
        }
    }

    /// Reads the next events of the declared types, at most [`MAX_BATCH_EVENTS`] of all types if the
    /// projection is near the head, or of its own types otherwise.
    async fn read_batch(
        &self,
        project: &ProjectId,
        after: Position,
        head: Position,
    ) -> Result<Batch, StoreError> {
        if head == after {
            return Ok(Batch { events: Vec::new(), last: head, salt: None });
        }
        let kinds = self.projection.kinds();
        if head.since(after) <= MAX_BATCH_EVENTS.into()
            && let Some(mut events) =
                self.log.read_recent(project, after, head, MAX_BATCH_EVENTS).await?
        {
            let newest = events.last().map(|event| (event.position, event.salt.clone()));
            if !kinds.is_empty() {
                events.retain(|event| kinds.contains(&event.kind.as_str()));
            }
            // Without an event the log is shorter than `head`: the commit detects that.
            let (last, salt) = newest.map_or((head, None), |(last, salt)| (last, Some(salt)));
            return Ok(Batch { events, last, salt });
        }
        let kinds = kinds.into_iter().map(str::to_owned).collect();
        // Up to `head`, the filter selects all events of the declared types.
        let filter = ReadFilter { after, until: Some(head), kinds };
        let events = self.log.read(project, &filter, MAX_BATCH_EVENTS).await?;
        let newest = events.last().map(|event| event.position);
        let is_full = events.len() == MAX_BATCH_EVENTS as usize;
        let last = newest.filter(|_| is_full).unwrap_or(head);
        Ok(Batch { events: events.into_iter().map(Arc::new).collect(), last, salt: None })
    }

    /// Commits rows and checkpoint in one transaction; false when another process moved the
    /// checkpoint, or the log does not contain the event at its new position with this salt.
    async fn commit(
        &mut self,
        project: &ProjectId,
        from: Position,
        to: Position,
        salt: Option<&[u8]>,
        events: &[Arc<StoredEvent>],
    ) -> Result<bool, ProjectionError> {
        let mut client = self.log.stores().connection().await?;
        let transaction = client.transaction().await.while_trying("start a projection's batch")?;
        let transaction = Transaction::new(transaction);
        let (name, from, to) = (self.projection.name(), as_i64(from), as_i64(to));
        let parameters: [&(dyn ToSql + Sync); 5] = [&name, &project.as_str(), &from, &to, &salt];
        let (_, moved) = tokio::try_join!(
            biased;
            transaction.disable_synchronous_commit(),
            transaction.execute(UPDATE_CHECKPOINT, &parameters),
        )
        .while_trying("update a projection's checkpoint")?;
        if moved == 0 {
            return Ok(false);
        }
        if !events.is_empty() {
            self.projection.apply(&transaction, project, events).await?;
        }
        transaction.commit().await.while_trying("commit a projection's batch")?;
        Ok(true)
    }

    async fn load_checkpoint(&mut self, project: &ProjectId) -> Result<Position, StoreError> {
        let client = self.log.stores().connection().await?;
        let row = client
            .query_one(
                "INSERT INTO checkpoints AS c (projection, project) VALUES ($1, $2)
                 ON CONFLICT (projection, project) DO UPDATE SET position = c.position
                 RETURNING position",
                &[&self.projection.name(), &project.as_str()],
            )
            .await
            .while_trying("read a projection's checkpoint")?;
        let position = number(&row, 0);
        self.checkpoints.insert(project.clone(), position);
        self.set_reached(project, position);
        Ok(position)
    }

    fn set_reached(&mut self, project: &ProjectId, position: Position) {
        self.reached.insert(project.clone(), position);
        self.progress.set(project, position);
    }

    /// Stores the failure, so that an operator sees it without reading logs.
    async fn store_failure(&self, project: &ProjectId, error: &ProjectionError) {
        let Ok(client) = self.log.stores().connection().await else {
            return;
        };
        let noted = client
            .execute(
                "UPDATE checkpoints SET failure = $3, updated_at = clock_timestamp()
                 WHERE projection = $1 AND project = $2",
                &[&self.projection.name(), &project.as_str(), &error.to_string()],
            )
            .await;
        if let Err(error) = noted {
            tracing::debug!(%error, "failed to record a projection's failure");
        }
    }
}

fn restored_error(project: &ProjectId) -> ProjectionError {
    let message =
        format!("the log of {project} is not the same as before; was an older backup restored?");
    StoreError::Corrupt(message).into()
}

/// Compares two tables of the same shape. Returns the rows that are in only one of them, as JSON,
/// at most 20.
///
/// # Errors
/// When PostgreSQL is unreachable or the statement fails.
pub async fn compare_tables(
    log: &EventLog,
    one: &str,
    other: &str,
) -> Result<Vec<String>, StoreError> {
    let client = log.stores().connection().await?;
    let sql = format!(
        "(SELECT '{one}' AS side, to_jsonb(a)::text FROM
             (SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other}) a)
         UNION ALL
         (SELECT '{other}' AS side, to_jsonb(b)::text FROM
             (SELECT * FROM {other} EXCEPT ALL SELECT * FROM {one}) b)
         LIMIT 20"
    );
    let rows = client.query(&sql, &[]).await.while_trying("compare two tables")?;
    Ok(rows
        .iter()
        .map(|row| format!("{}: {}", row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect())
}
