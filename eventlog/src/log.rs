//! API of the log: open it, append to it, query its heads.

use std::collections::HashMap;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use muster_schemas::{Hash, Position, ProjectId, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::access::{AccessChanges, AccessStamp};
use crate::append::{Append, AppendError, Appended, Batch};
use crate::appender::AppenderHandle;
use crate::authority_keys::{AuthorityKeys, RefusedEvents};
use crate::connect::{ConnectOptions, Stores};
use crate::dead_letter_quota::DeadLetterQuota;
use crate::error::{ErrorContext, StoreError};
use crate::failure::{Failure, FailureWatch};
use crate::integers::number;
use crate::log_options::LogOptions;
use crate::merkle::Frontier;
use crate::migrations::migrate;
use crate::partitions;
use crate::recent::RecentEvents;
use crate::traces;

/// The head of a project's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Newest position; 0 when the log is empty.
    pub position: Position,
    /// Time at which it was recorded.
    pub recorded_at: Timestamp,
    /// Root of the Merkle tree over all positions.
    pub root: Hash,
}

/// The event log; cheap to clone.
#[derive(Clone, Debug)]
pub struct EventLog {
    pub(crate) inner: Arc<Inner>,
    pub(crate) is_for_queries: bool,
    pub(crate) authority_keys: AuthorityKeys,
}

#[derive(Debug)]
pub(crate) struct Inner {
    stores: Stores,
    options: LogOptions,
    appenders: Mutex<HashMap<ProjectId, AppenderHandle>>,
    dead_letter_quota: Mutex<DeadLetterQuota>,
    append_failure: FailureWatch,
    pub(crate) refused: RefusedEvents,
    pub(crate) recent: RecentEvents,
    pub(crate) access_changes: AccessChanges,
}

impl EventLog {
    /// Returns the stamp of a decision about access. Take it before the decision is read.
    #[must_use]
    pub fn access_stamp(&self) -> AccessStamp {
        self.inner.access_changes.stamp()
    }

    /// Whether a decision with this stamp may still be used.
    #[must_use]
    pub fn is_current(&self, stamp: &AccessStamp) -> bool {
        self.inner.access_changes.is_current(stamp)
    }
}

impl EventLog {
    /// Connects and runs missing migrations.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or a migration fails.
    #[boxed]
    pub async fn open(connect: &ConnectOptions, options: LogOptions) -> Result<Self, StoreError> {
        let stores = Stores::new(connect)?;
        migrate(&stores.sql).await?;
        let inner = Inner {
            stores,
            options,
            appenders: Mutex::default(),
            dead_letter_quota: Mutex::default(),
            append_failure: FailureWatch::default(),
            refused: RefusedEvents::default(),
            recent: RecentEvents::default(),
            access_changes: AccessChanges::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            is_for_queries: false,
            authority_keys: AuthorityKeys::default(),
        })
    }

    /// Returns the connection pools.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.inner.stores
    }

    /// Returns the same log for queries of API clients: its reads have separate connections and a
    /// time limit of 20 seconds, so that they cannot block other work.
    #[must_use]
    pub fn for_queries(&self) -> Self {
        Self { is_for_queries: true, ..self.clone() }
    }

    /// Returns the pool for reads.
    pub(crate) fn readers(&self) -> &deadpool_postgres::Pool {
        if self.is_for_queries { &self.inner.stores.readers } else { &self.inner.stores.pool }
    }

    /// Returns how many dead letters of each sender are still stored.
    pub(crate) fn dead_letter_quota(&self) -> MutexGuard<'_, DeadLetterQuota> {
        self.inner.dead_letter_quota.lock()
    }

    pub(crate) fn options(&self) -> &LogOptions {
        &self.inner.options
    }

    /// Creates a project's log if it does not exist.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn ensure_project(&self, project: &ProjectId) -> Result<(), StoreError> {
        let is_there = self.head(project).await?.is_some();
        let client = self.stores().pool.get().await?;
        if !is_there {
            partitions::ensure_project(&client, project).await?;
        }
        // The process that created the project may have been interrupted before this; a role
        // without the right to create partitions only checks that they exist.
        for range in 0..2 {
            if !partitions::has_range(&client, project, range).await? {
                partitions::ensure_range(&client, project, range, self.options().partition_rows)
                    .await?;
            }
        }
        Ok(())
    }

    /// Returns the projects that have a log.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn projects(&self) -> Result<Vec<ProjectId>, StoreError> {
        let mut projects: Vec<_> = self.heads().await?.into_keys().collect();
        projects.sort_unstable();
        Ok(projects)
    }

    /// Returns the newest position of each project's log.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn heads(&self) -> Result<HashMap<ProjectId, Position>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query("SELECT project, position FROM heads", &[])
            .await
            .while_trying("list the projects")?;
        rows.iter()
            .map(|row| {
                let project = row
                    .get::<_, &str>(0)
                    .parse()
                    .map_err(|error| StoreError::Corrupt(format!("heads: {error}")))?;
                Ok((project, number(row, 1)))
            })
            .collect()
    }

    /// Returns the head of a project's log; `None` if the project does not exist.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn head(&self, project: &ProjectId) -> Result<Option<Head>, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt(
                "SELECT position, (extract(epoch FROM recorded_at) * 1000000)::bigint, frontier
                 FROM heads WHERE project = $1",
                &[&project.as_str()],
            )
            .await
            .while_trying("read the head of the log")?;
        row.map(|row| {
            let position: Position = number(&row, 0);
            let frontier = Frontier::from_bytes(position.get(), row.get(2)).ok_or_else(|| {
                StoreError::Corrupt(format!("the frontier of {project} does not fit its position"))
            })?;
            Ok(Head { position, recorded_at: Timestamp(row.get(1)), root: frontier.root() })
        })
        .transpose()
    }

    /// Returns the newest position of a project's log; 0 if it is empty or does not exist.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn newest_position(&self, project: &ProjectId) -> Result<Position, StoreError> {
        Ok(self.head(project).await?.map_or(Position::ZERO, |head| head.position))
    }

    /// Appends atomically.
    ///
    /// # Errors
    /// See [`AppendError`]; after [`AppendError::Store`] retry with the same append id.
    #[boxed]
    pub async fn append(
        &self,
        project: &ProjectId,
        append: Append,
    ) -> Result<Appended, AppendError> {
        let batch = Batch { appends: vec![append], offset: None };
        let mut results = self.append_batch(project, batch).await?;
        results.pop().unwrap_or(Err(AppendError::Store(StoreError::ShuttingDown)))
    }

    /// Appends many independent items in one batch; the results have the order of the appends.
    ///
    /// # Errors
    /// When nothing of the batch was appended; the failure of a single append is in its own result.
    #[boxed]
    pub async fn append_batch(
        &self,
        project: &ProjectId,
        mut batch: Batch,
    ) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        self.authority_keys.prove(project, &mut batch);
        let appender = {
            let mut appenders = self.inner.appenders.lock();
            appenders
                .entry(project.clone())
                .or_insert_with(|| {
                    AppenderHandle::spawn(
                        project.clone(),
                        self.inner.stores.dialer.clone(),
                        self.inner.options.clone(),
                        self.inner.append_failure.clone(),
                        self.inner.access_changes.clone(),
                    )
                })
                .clone()
        };
        let appending = traces::AppendSpans::from_batch(&batch);
        let results = appender.submit(batch).await?;
        if let Some(appending) = appending {
            appending.emit(project, &results);
        }
        Ok(results)
    }

    /// Returns why this process cannot append to the log, and since when; `None` while it can.
    #[must_use]
    pub fn append_failure(&self) -> Option<Failure> {
        self.inner.append_failure.current()
    }

    /// Returns the result of the append with this id, if it was committed.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn appended(
        &self,
        project: &ProjectId,
        append_id: Uuid,
    ) -> Result<Option<Appended>, StoreError> {
        let client = self.stores().pool.get().await?;
        let statement = client
            .prepare_cached(
                "SELECT first_position, last_position,
                        (extract(epoch FROM recorded_at) * 1000000)::bigint, request_hash
                 FROM appends WHERE project = $1 AND append_id = $2",
            )
            .await
            .while_trying("prepare to look up an append")?;
        let row = client
            .query_opt(&statement, &[&project.as_str(), &append_id])
            .await
            .while_trying("look up an append")?;
        Ok(row.map(|row| Appended {
            first: number(&row, 0),
            last: number(&row, 1),
            recorded_at: Timestamp(row.get(2)),
            request_hash: row.get::<_, Option<&[u8]>>(3).and_then(Hash::from_slice),
        }))
    }

    /// Deletes append ids that are older than a day.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn prune_append_ids(&self) -> Result<u64, StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute("DELETE FROM appends WHERE recorded_at < now() - interval '1 day'", &[])
            .await
            .while_trying("delete old append ids")
    }
}
