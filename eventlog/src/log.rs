//! The log's front: open it, append to it, ask where it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_schemas::{Hash, ProjectId, Timestamp};
use uuid::Uuid;

use crate::append::{Append, AppendError, Appended, Batch};
use crate::appender::AppenderHandle;
use crate::authority::{Refused, Trust};
use crate::connect::{ConnectOptions, Stores};
use crate::dead_letters::Allowance;
use crate::error::{Attempted, StoreError};
use crate::failure::{Failure, FailureWatch};
use crate::merkle::Frontier;
use crate::partitions;
use crate::traces;

/// Brings the tables up to date. A database user that may not is content when they are.
async fn migrate(pool: &sqlx::PgPool) -> Result<(), StoreError> {
    let mut migrations = sqlx::migrate!("./migrations");
    // A newer release may have added some; this one works beside it.
    migrations.set_ignore_missing(true);
    let asked = |source| StoreError::Ask { attempted: "look for migrations", source };
    let may_migrate: bool =
        sqlx::query_scalar("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            .fetch_one(pool)
            .await
            .map_err(asked)?;
    if may_migrate {
        return Ok(migrations.run(pool).await?);
    }
    let applied: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(pool)
            .await
            .map_err(asked)?;
    match migrations.iter().filter(|known| !applied.contains(&known.version)).count() {
        0 => Ok(()),
        missing => Err(StoreError::NotMigrated(missing)),
    }
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Rows in one partition by position.
    pub partition_rows: u64,
    /// Events that go into one transaction at most.
    pub max_batch: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { partition_rows: 5_000_000, max_batch: 2_000 }
    }
}

/// Where a project's log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest position; 0 when the log is empty.
    pub position: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The root of the Merkle tree over all positions so far.
    pub root: Hash,
}

/// How far everything has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Each project's newest position.
    pub heads: HashMap<String, u64>,
    /// Each projection's position in each project.
    pub projections: Vec<(String, String, u64)>,
}

/// The event log; cheap to clone.
#[derive(Clone, Debug)]
pub struct EventLog {
    pub(crate) inner: Arc<Inner>,
    pub(crate) careful: bool,
    pub(crate) trust: Trust,
}

#[derive(Debug)]
pub(crate) struct Inner {
    stores: Stores,
    options: LogOptions,
    appenders: Mutex<HashMap<ProjectId, AppenderHandle>>,
    letters: Mutex<Allowance>,
    append_failure: FailureWatch,
    pub(crate) refused: Refused,
}

impl EventLog {
    /// Connects, and brings the database's tables up to date.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or a migration fails.
    pub async fn open(connect: &ConnectOptions, options: LogOptions) -> Result<Self, StoreError> {
        let stores = Stores::new(connect)?;
        migrate(&stores.sql).await?;
        let inner = Inner {
            stores,
            options,
            appenders: Mutex::default(),
            letters: Mutex::default(),
            append_failure: FailureWatch::default(),
            refused: Refused::default(),
        };
        Ok(Self { inner: Arc::new(inner), careful: false, trust: Trust::default() })
    }

    /// The connection pools.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.inner.stores
    }

    /// The same log for questions of people: its reads have connections of their own, and each is
    /// given up after 20 seconds, so that no question can hold up the work.
    #[must_use]
    pub fn for_questions(&self) -> Self {
        Self { careful: true, ..self.clone() }
    }

    /// Connections for reading.
    pub(crate) fn readers(&self) -> &deadpool_postgres::Pool {
        if self.careful { &self.inner.stores.readers } else { &self.inner.stores.pool }
    }

    /// How many dead letters of each sender are still kept.
    pub(crate) fn letters(&self) -> MutexGuard<'_, Allowance> {
        self.inner.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn options(&self) -> &LogOptions {
        &self.inner.options
    }

    /// Makes a project's log, if it is not there.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn ensure_project(&self, project: &ProjectId) -> Result<(), StoreError> {
        let is_there = self.head(project).await?.is_some();
        let client = self.stores().pool.get().await?;
        if !is_there {
            partitions::ensure_project(&client, project).await?;
        }
        // Whoever made the project may have been cut off before these; a role that may not make them
        // asks only whether they are there.
        for range in 0..2 {
            partitions::ensure_range(&client, project, range, self.options().partition_rows)
                .await?;
        }
        Ok(())
    }

    /// The projects that have a log.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn projects(&self) -> Result<Vec<ProjectId>, StoreError> {
        let mut projects: Vec<_> = self.heads().await?.into_keys().collect();
        projects.sort_unstable();
        Ok(projects)
    }

    /// The newest position of each project's log.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn heads(&self) -> Result<HashMap<ProjectId, u64>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query("SELECT project, position FROM heads", &[])
            .await
            .attempted("list the projects")?;
        rows.iter()
            .map(|row| {
                let project = row
                    .get::<_, &str>(0)
                    .parse()
                    .map_err(|error| StoreError::Corrupt(format!("heads: {error}")))?;
                Ok((project, row.get::<_, i64>(1).unsigned_abs()))
            })
            .collect()
    }

    /// Where each log ends, and how far each projection has come in it: for whoever watches the
    /// server.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn standing(&self) -> Result<Standing, StoreError> {
        let client = self.stores().pool.get().await?;
        let heads = client
            .query("SELECT project, position FROM heads", &[])
            .await
            .attempted("read the heads of the logs")?;
        let checkpoints = client
            .query("SELECT projection, project, position FROM checkpoints", &[])
            .await
            .attempted("read how far the projections have come")?;
        let place = |row: &tokio_postgres::Row, at| row.get::<_, i64>(at).unsigned_abs();
        Ok(Standing {
            heads: heads.iter().map(|row| (row.get(0), place(row, 1))).collect(),
            projections: checkpoints
                .iter()
                .map(|row| (row.get(0), row.get(1), place(row, 2)))
                .collect(),
        })
    }

    /// Where a project's log ends; `None` when there is no such project.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn head(&self, project: &ProjectId) -> Result<Option<Head>, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt(
                "SELECT position, (extract(epoch FROM recorded_at) * 1000000)::bigint, frontier
                 FROM heads WHERE project = $1",
                &[&project.as_str()],
            )
            .await
            .attempted("read the head of the log")?;
        row.map(|row| {
            let position = row.get::<_, i64>(0).unsigned_abs();
            let frontier = Frontier::from_bytes(position, row.get(2)).ok_or_else(|| {
                StoreError::Corrupt(format!("the frontier of {project} does not fit its position"))
            })?;
            Ok(Head { position, recorded_at: Timestamp(row.get(1)), root: frontier.root() })
        })
        .transpose()
    }

    /// Appends, all or nothing.
    ///
    /// # Errors
    /// See [`AppendError`]; after [`AppendError::Store`] ask again with the same append id.
    pub async fn append(
        &self,
        project: &ProjectId,
        append: Append,
    ) -> Result<Appended, AppendError> {
        let batch = Batch { appends: vec![append], offset: None };
        let mut results = self.append_batch(project, batch).await?;
        results.pop().unwrap_or(Err(AppendError::Store(StoreError::ShuttingDown)))
    }

    /// Appends many independent things at once; the answers come in the order of the appends.
    ///
    /// # Errors
    /// When nothing of the batch could be appended; what failed alone is in its own answer.
    pub async fn append_batch(
        &self,
        project: &ProjectId,
        mut batch: Batch,
    ) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        self.prove(project, &mut batch);
        let appender = {
            let mut appenders = self.inner.appenders.lock().unwrap_or_else(PoisonError::into_inner);
            appenders
                .entry(project.clone())
                .or_insert_with(|| {
                    AppenderHandle::spawn(
                        project.clone(),
                        self.inner.stores.dialer.clone(),
                        self.inner.options.clone(),
                        self.inner.append_failure.clone(),
                    )
                })
                .clone()
        };
        let appending = traces::Appending::of(&batch);
        let results = appender.submit(batch).await?;
        if let Some(appending) = appending {
            appending.tell(project, &results);
        }
        Ok(results)
    }

    /// Why this process cannot append to the log, and since when; `None` while it can.
    #[must_use]
    pub fn append_failure(&self) -> Option<Failure> {
        self.inner.append_failure.current()
    }

    /// What an append with this id got, if it was committed.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn appended(
        &self,
        project: &ProjectId,
        append_id: Uuid,
    ) -> Result<Option<Appended>, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt(
                "SELECT first_position, last_position,
                        (extract(epoch FROM recorded_at) * 1000000)::bigint, request_hash
                 FROM appends WHERE project = $1 AND append_id = $2",
                &[&project.as_str(), &append_id],
            )
            .await
            .attempted("look up an append")?;
        Ok(row.map(|row| Appended {
            first: row.get::<_, i64>(0).unsigned_abs(),
            last: row.get::<_, i64>(1).unsigned_abs(),
            recorded_at: Timestamp(row.get(2)),
            request_hash: row.get::<_, Option<&[u8]>>(3).and_then(Hash::from_slice),
        }))
    }

    /// Forgets append ids that are older than a day.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn prune_append_ids(&self) -> Result<u64, StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute("DELETE FROM appends WHERE recorded_at < now() - interval '1 day'", &[])
            .await
            .attempted("forget old append ids")
    }
}
