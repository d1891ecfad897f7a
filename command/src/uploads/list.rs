//! The list of uploaded files: a projection of the log to its own tables, for `eraser` alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{EventLog, StoreError, StoredEvent};
use muster_schemas::events::{
    Action, OperationRequested, RunClosed, RunRequested, Upload, UploadErased,
};
use muster_schemas::{
    DeviceId, Event, OperationId, ProjectId, RunState, StreamName, Timestamp, run,
};
use sqlx::AssertSqlSafe;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Name of the projection, and prefix of its tables' names.
pub const NAME: &str = "files_v1";

/// Types that the projection handles in addition to a device's reports of the end of a run.
const TYPES: &[&str] =
    &[OperationRequested::TYPE, RunRequested::TYPE, RunClosed::TYPE, UploadErased::TYPE];

/// Delay before the partial file of a run that its device reported as unsuccessful is erased, in
/// microseconds: pieces may still be in flight.
const FAILED_FILE_TTL: Duration = Duration::from_secs(20);
/// Delay before the partial file of a run that only the server has closed is erased, in
/// microseconds: such a run may still succeed.
const CLOSED_FILE_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Age up to which erasures are repeated; older ones have certainly succeeded.
const MAX_ERASURE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The projection that fills the list.
#[derive(Debug, Default)]
pub struct Files {
    /// Cache of which operations are uploads.
    cached: BTreeMap<(ProjectId, OperationId), bool>,
}

/// Maximum number of cached operations.
const MAX_CACHED_OPERATIONS: usize = 10_000;

/// Change of a file by an event.
enum Change {
    /// The file is stored, since this time.
    Stored(Timestamp),
    /// The file is erased at this time, unless it is stored after all.
    Failed(Timestamp),
    /// The file was erased at this time.
    Erased(Timestamp),
}

const ATTEMPTED: &str = "write the list of files";

#[async_trait]
impl Projection for Files {
    fn name(&self) -> &str {
        NAME
    }

    fn kinds(&self) -> Vec<&'static str> {
        [TYPES, run::END_TYPES].concat()
    }

    fn tables(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {NAME}_asked (
                 project   text COLLATE \"C\" NOT NULL,
                 operation uuid    NOT NULL,
                 path      text    NOT NULL,
                 replaces  boolean NOT NULL,
                 keep      bigint,            -- microseconds
                 PRIMARY KEY (project, operation)
             );
             CREATE TABLE IF NOT EXISTS {NAME} (
                 project    text COLLATE \"C\" NOT NULL,
                 operation  uuid    NOT NULL,
                 device     uuid    NOT NULL,
                 path       text    NOT NULL,
                 replaces   boolean NOT NULL,
                 keep       bigint,
                 stored_at  bigint,           -- microseconds since 1970, as those below
                 useless_at bigint,
                 erased_at  bigint,
                 PRIMARY KEY (project, operation, device)
             );
             CREATE INDEX IF NOT EXISTS {NAME}_stored ON {NAME} (project, device, path)
                 WHERE stored_at IS NOT NULL AND erased_at IS NULL;
             CREATE INDEX IF NOT EXISTS {NAME}_kept ON {NAME} ((stored_at + keep))
                 WHERE stored_at IS NOT NULL AND erased_at IS NULL;
             CREATE INDEX IF NOT EXISTS {NAME}_erased ON {NAME} (erased_at);
             CREATE INDEX IF NOT EXISTS {NAME}_useless ON {NAME} (useless_at)"
        )
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        for stored in events {
            let event = ProjectionError::decode(NAME, stored)?;
            let at = stored.recorded_at;
            match (&stored.stream, &event) {
                (StreamName::Operation(id), Event::OperationRequested(requested)) => {
                    let upload = match &requested.action {
                        Action::Upload(upload) => Some(upload),
                        _ => None,
                    };
                    self.cache(project, *id, upload.is_some());
                    if let Some(upload) = upload {
                        insert_upload(transaction, project, *id, upload).await?;
                    }
                }
                (StreamName::Run(id, device), event) => {
                    if self.is_upload(transaction, project, *id).await? {
                        let run = (project, *id, *device);
                        match event {
                            Event::RunRequested(_) => add(transaction, run).await?,
                            Event::RunClosed(_) => {
                                change(transaction, run, Change::Failed(at + CLOSED_FILE_TTL))
                                    .await?;
                            }
                            Event::UploadErased(_) => {
                                change(transaction, run, Change::Erased(at)).await?;
                            }
                            _ => {}
                        }
                    }
                }
                (stream, event) => {
                    let (Some(device), Some((id, is_stored))) = (stream.device(), end_of(event))
                    else {
                        continue;
                    };
                    if self.is_upload(transaction, project, id).await? {
                        let what = if is_stored {
                            Change::Stored(at)
                        } else {
                            Change::Failed(at + FAILED_FILE_TTL)
                        };
                        change(transaction, (project, id, device), what).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn discard_cache(&mut self) {
        self.cached.clear();
    }
}

/// Returns the operation whose run has ended by this event, and whether its file is stored.
fn end_of(event: &Event) -> Option<(OperationId, bool)> {
    let end = run::device_report(event).filter(|reported| reported.state.is_final())?;
    let is_stored =
        end.state == RunState::Succeeded && end.report.is_some_and(|report| report.file.is_some());
    Some((end.operation, is_stored))
}

impl Files {
    fn cache(&mut self, project: &ProjectId, id: OperationId, is_upload: bool) {
        if self.cached.len() >= MAX_CACHED_OPERATIONS {
            self.cached.clear();
        }
        self.cached.insert((project.clone(), id), is_upload);
    }

    async fn is_upload(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        id: OperationId,
    ) -> Result<bool, StoreError> {
        if let Some(cached) = self.cached.get(&(project.clone(), id)) {
            return Ok(*cached);
        }
        let sql = format!("SELECT FROM {NAME}_asked WHERE project = $1 AND operation = $2");
        let parameters: [&(dyn ToSql + Sync); 2] = [&project.as_str(), &id.0];
        let found = transaction
            .query_opt(&sql, &parameters)
            .await
            .map_err(StoreError::query(ATTEMPTED))?
            .is_some();
        self.cache(project, id, found);
        Ok(found)
    }
}

async fn insert_upload(
    transaction: &Transaction<'_>,
    project: &ProjectId,
    id: OperationId,
    upload: &Upload,
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO {NAME}_asked (project, operation, path, replaces, keep)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
    );
    let keep = upload.keep_seconds.map(|seconds| i64::from(seconds) * 1_000_000);
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&project.as_str(), &id.0, &upload.path, &upload.replace, &keep];
    transaction.execute(&sql, &parameters).await.map(drop).map_err(StoreError::query(ATTEMPTED))
}

type Run<'a> = (&'a ProjectId, OperationId, DeviceId);

async fn add(
    transaction: &Transaction<'_>,
    (project, id, device): Run<'_>,
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO {NAME} (project, operation, device, path, replaces, keep)
         SELECT project, operation, $3, path, replaces, keep FROM {NAME}_asked
         WHERE project = $1 AND operation = $2 ON CONFLICT DO NOTHING"
    );
    let parameters: [&(dyn ToSql + Sync); 3] = [&project.as_str(), &id.0, &device.0];
    transaction.execute(&sql, &parameters).await.map(drop).map_err(StoreError::query(ATTEMPTED))
}

async fn change(
    transaction: &Transaction<'_>,
    (project, id, device): Run<'_>,
    change: Change,
) -> Result<(), StoreError> {
    let (set, at) = match change {
        Change::Stored(at) => ("stored_at = $4, useless_at = NULL", at),
        // A device's report takes precedence over the server's.
        Change::Failed(at) => ("useless_at = CASE WHEN stored_at IS NULL THEN $4::bigint END", at),
        Change::Erased(at) => ("erased_at = coalesce(erased_at, $4)", at),
    };
    let sql =
        format!("UPDATE {NAME} SET {set} WHERE project = $1 AND operation = $2 AND device = $3");
    let parameters: [&(dyn ToSql + Sync); 4] = [&project.as_str(), &id.0, &device.0, &at.micros()];
    transaction.execute(&sql, &parameters).await.map(drop).map_err(StoreError::query(ATTEMPTED))
}

/// A selection of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSelection {
    /// Stored files that have expired.
    Expired,
    /// Stored files that a later one replaces.
    Replaced,
    /// Files whose data must not exist: they were erased, or are incomplete for good.
    Erased,
}

impl FileSelection {
    fn condition(self) -> String {
        match self {
            Self::Expired => {
                "f.stored_at IS NOT NULL AND f.erased_at IS NULL AND f.stored_at + f.keep <= $1"
                    .to_owned()
            }
            Self::Replaced => format!(
                "f.stored_at < $1 AND f.erased_at IS NULL AND EXISTS (
                     SELECT FROM {NAME} n
                     WHERE n.project = f.project AND n.device = f.device AND n.path = f.path
                       AND n.replaces AND n.stored_at > f.stored_at
                       AND n.operation <> f.operation)"
            ),
            Self::Erased => format!(
                "(f.erased_at BETWEEN $1 - {oldest} AND $1 - {newest})
                 OR (f.useless_at BETWEEN $1 - {oldest} AND $1)",
                oldest = MAX_ERASURE_AGE.as_micros(),
                newest = FAILED_FILE_TTL.as_micros(),
            ),
        }
    }
}

/// A file: its project, operation and device.
pub(super) type File = (ProjectId, OperationId, DeviceId);

/// Returns the selected files as of this time.
pub(super) async fn files(
    log: &EventLog,
    selection: FileSelection,
    now: Timestamp,
) -> Result<Vec<File>, StoreError> {
    let sql = format!(
        "SELECT f.project, f.operation, f.device FROM {NAME} f WHERE {}
         ORDER BY f.project, f.operation, f.device",
        selection.condition()
    );
    let rows: Vec<(String, Uuid, Uuid)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(now.micros())
        .fetch_all(&log.stores().sql)
        .await
        .map_err(StoreError::sqlx("read the list of files"))?;
    rows.into_iter()
        .map(|(project, operation, device)| {
            let corrupt = |_| StoreError::Corrupt(format!("a file of '{project}'"));
            let project = project.parse().map_err(corrupt)?;
            Ok((project, OperationId(operation), DeviceId(device)))
        })
        .collect()
}
