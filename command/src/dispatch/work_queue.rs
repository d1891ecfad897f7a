//! Rows of the work queue, and queries on it.

use std::collections::BTreeSet;

use muster_eventlog::{EventLog, StoreError};
use muster_schemas::events::OperationRequested;
use muster_schemas::run::UnknownRunState;
use muster_schemas::{
    DeviceId, Epoch, OperationId, Position, ProjectId, RunState, StreamVersion, Timestamp, codec,
};
use sqlx::{AssertSqlSafe, FromRow, Row as _};
use uuid::Uuid;

use super::queue_projection::NAME;

/// Reads the state of an open run. Fails for an unknown state: a run that was read as `requested`
/// would be dispatched again.
fn read_state(text: &str) -> Result<RunState, StoreError> {
    let state: RunState =
        text.parse().map_err(|error: UnknownRunState| StoreError::Corrupt(error.to_string()))?;
    if state.is_final() {
        return Err(StoreError::Corrupt(format!("an open run is in the state '{state}'")));
    }
    Ok(state)
}

/// An operation with runs that have not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    /// Id of the operation.
    pub id: OperationId,
    /// Actor of the request.
    pub actor: String,
    /// The request.
    pub requested: OperationRequested,
    /// Whether no further run starts until the operation is resumed.
    pub is_paused: bool,
    /// Whether no further run starts at all.
    pub is_aborted: bool,
    /// Number of unsuccessful runs.
    pub failures: u32,
    /// Number of runs that devices have received.
    pub active: u32,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// Id of the operation.
    pub operation: OperationId,
    /// Id of the device.
    pub device: DeviceId,
    /// State of the run.
    pub state: RunState,
    /// Version of its stream.
    pub version: StreamVersion,
    /// Epoch of its newest order; 0 when there is none.
    pub epoch: Epoch,
    /// The newest order.
    pub order: Option<Vec<u8>>,
    /// Whether its cancellation was requested.
    pub is_canceled: bool,
    /// Time at which it entered its state.
    pub since: Timestamp,
    /// Current epoch of the device; 0 when it never enrolled.
    pub device_epoch: Epoch,
    /// Whether the device is online.
    pub is_online: bool,
    /// Whether the device was revoked or deleted.
    pub is_device_removed: bool,
}

const RUN_COLUMNS: &str = "r.operation, r.device, r.state, r.version, r.epoch, r.sealed, \
     r.canceled, r.since, coalesce(d.epoch, 0), coalesce(d.online, false), coalesce(d.gone, false)";

type RunRow = (Uuid, Uuid, String, i64, i64, Option<Vec<u8>>, bool, i64, i64, bool, bool);

fn run(row: RunRow) -> Result<OpenRun, StoreError> {
    Ok(OpenRun {
        operation: OperationId(row.0),
        device: DeviceId(row.1),
        state: read_state(&row.2)?,
        version: StreamVersion(row.3.unsigned_abs()),
        epoch: Epoch(row.4.unsigned_abs()),
        order: row.5,
        is_canceled: row.6,
        since: Timestamp(row.7),
        device_epoch: Epoch(row.8.unsigned_abs()),
        is_online: row.9,
        is_device_removed: row.10,
    })
}

/// A selection of an operation's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunSelection {
    /// Runs that wait, whether their device is online or not.
    Waiting,
    /// Runs of devices that were revoked or deleted.
    DeviceRemoved,
    /// Dispatched runs that must be sent again, or that entered their state before some time.
    Sent {
        /// That time.
        before: Timestamp,
    },
    /// Runs that must be canceled when their operation is aborted.
    NotCanceled,
}

impl RunSelection {
    const fn condition(self) -> &'static str {
        match self {
            Self::Waiting => "r.state = 'requested'",
            Self::DeviceRemoved => "d.gone",
            Self::Sent { .. } => {
                "r.state <> 'requested' AND (r.since < $4
                     OR (d.online AND (r.state = 'dispatched' OR r.canceled)))"
            }
            Self::NotCanceled => "NOT r.canceled",
        }
    }

    /// The additional number that the condition is bound to.
    const fn number(self) -> i64 {
        match self {
            Self::Sent { before } => before.micros(),
            Self::Waiting | Self::DeviceRemoved | Self::NotCanceled => 0,
        }
    }
}

const ATTEMPTED: &str = "read the list of open runs";

/// Queries the work queue.
#[derive(Clone, Debug)]
pub(crate) struct WorkQueue {
    log: EventLog,
}

impl WorkQueue {
    pub(crate) const fn new(log: EventLog) -> Self {
        Self { log }
    }

    /// Returns the open operations of all projects, the oldest first.
    pub(crate) async fn operations(&self) -> Result<Vec<(ProjectId, OpenOperation)>, StoreError> {
        let sql = format!(
            "SELECT o.project, o.operation, o.actor, o.requested, o.paused, o.aborted, o.failures,
                 (SELECT count(*) FROM {NAME}_runs r
                  LEFT JOIN {NAME}_devices d ON d.project = r.project AND d.device = r.device
                  WHERE r.project = o.project AND r.operation = o.operation
                    AND r.state <> 'requested' AND coalesce(d.online, false))
             FROM {NAME}_operations o ORDER BY o.project, o.operation"
        );
        type Row = (String, Uuid, String, Vec<u8>, bool, bool, i64, i64);
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))?;
        rows.into_iter()
            .map(|(project, id, actor, requested, paused, aborted, failures, active)| {
                let corrupt = |what: String| StoreError::Corrupt(format!("open operation: {what}"));
                let operation = OpenOperation {
                    id: OperationId(id),
                    actor,
                    requested: codec::decode(&requested).map_err(|e| corrupt(e.to_string()))?,
                    is_paused: paused,
                    is_aborted: aborted,
                    failures: failures.try_into().unwrap_or(u32::MAX),
                    active: active.try_into().unwrap_or(u32::MAX),
                };
                let project = project.parse().map_err(|_| corrupt(format!("of '{project}'")))?;
                Ok((project, operation))
            })
            .collect()
    }

    /// Whether an operation, or one device's run of it, has not ended yet.
    pub(crate) async fn is_open(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: Option<DeviceId>,
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {NAME}_runs WHERE project = $1 AND operation = $2
                            AND ($3::uuid IS NULL OR device = $3))"
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(project.as_str())
            .bind(operation.0)
            .bind(device.map(|device| device.0))
            .fetch_one(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))
    }

    /// Returns some of an operation's runs, at most `limit`.
    pub(crate) async fn runs(
        &self,
        project: &ProjectId,
        operation: OperationId,
        selection: RunSelection,
        limit: u32,
    ) -> Result<Vec<OpenRun>, StoreError> {
        let sql = format!(
            "SELECT {RUN_COLUMNS} FROM {NAME}_runs r
             LEFT JOIN {NAME}_devices d ON d.project = r.project AND d.device = r.device
             WHERE r.project = $1 AND r.operation = $2 AND $4::bigint IS NOT NULL AND {}
             ORDER BY r.since, r.device LIMIT $3",
            selection.condition()
        );
        let (limit, number) = (i64::from(limit), selection.number());
        let rows: Vec<RunRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(project.as_str())
            .bind(operation.0)
            .bind(limit)
            .bind(number)
            .fetch_all(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))?;
        rows.into_iter().map(run).collect()
    }

    /// Returns the number of an operation's active runs, and its oldest runs that could start, at
    /// most `limit`. `rules::runs_to_start` decides how many of them do.
    ///
    /// One statement loads both: a run that is dispatched between two statements would be missing
    /// in both, and its slot would be used twice.
    pub(crate) async fn ready_runs(
        &self,
        project: &ProjectId,
        operation: OperationId,
        limit: u32,
    ) -> Result<(u32, Vec<OpenRun>), StoreError> {
        let sql = format!(
            "SELECT {RUN_COLUMNS},
                 (SELECT count(*) FROM {NAME}_runs a
                  JOIN {NAME}_devices b ON b.project = a.project AND b.device = a.device
                  WHERE a.project = $1 AND a.operation = $2 AND a.state <> 'requested'
                    AND b.online) AS active
             FROM {NAME}_runs r
             JOIN {NAME}_devices d ON d.project = r.project AND d.device = r.device
             WHERE r.project = $1 AND r.operation = $2 AND r.state = 'requested'
               AND NOT r.canceled AND d.online AND NOT d.gone
             ORDER BY r.since, r.device LIMIT $3"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(project.as_str())
            .bind(operation.0)
            .bind(i64::from(limit))
            .fetch_all(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))?;
        let active: i64 = match rows.first() {
            Some(row) => row.try_get("active").map_err(StoreError::sqlx(ATTEMPTED))?,
            None => 0,
        };
        let runs =
            rows.iter().map(|row| run(RunRow::from_row(row).map_err(StoreError::sqlx(ATTEMPTED))?));
        Ok((active.try_into().unwrap_or(u32::MAX), runs.collect::<Result<_, _>>()?))
    }

    /// Returns those of these devices that are online and for which no run waits, at most `limit`,
    /// each with its epoch; and the position up to which that is true. A run that was dispatched
    /// after `before` counts as waiting.
    pub(crate) async fn free_devices(
        &self,
        project: &ProjectId,
        devices: &BTreeSet<DeviceId>,
        before: Timestamp,
        limit: u32,
    ) -> Result<(Vec<(DeviceId, Epoch)>, Position), StoreError> {
        let sql = format!(
            "SELECT d.device, d.epoch, c.position FROM {NAME}_devices d
             JOIN projection_states c ON c.projection = '{NAME}' AND c.project = d.project
             WHERE d.project = $1 AND d.device = ANY($2) AND d.online AND NOT d.gone AND d.epoch > 0
               AND NOT EXISTS (SELECT FROM {NAME}_runs r WHERE r.project = $1
                               AND r.device = d.device
                               AND (r.state = 'requested' OR (r.state = 'dispatched' AND r.since > $4)))
             ORDER BY d.device LIMIT $3"
        );
        let devices: Vec<Uuid> = devices.iter().map(|device| device.0).collect();
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(project.as_str())
            .bind(devices)
            .bind(i64::from(limit))
            .bind(before.micros())
            .fetch_all(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))?;
        let position = rows
            .first()
            .map_or(Position::ZERO, |(_, _, position)| Position(position.unsigned_abs()));
        let free = |(id, epoch, _): (Uuid, i64, i64)| (DeviceId(id), Epoch(epoch.unsigned_abs()));
        Ok((rows.into_iter().map(free).collect(), position))
    }

    /// Returns since when a device is offline, as far as the queue has read the log; `None` when it
    /// is not known.
    pub(crate) async fn offline_since(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<Option<Timestamp>, StoreError> {
        let sql = format!(
            "SELECT presence_at FROM {NAME}_devices WHERE project = $1 AND device = $2 AND NOT online"
        );
        let row: Option<(Option<i64>,)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(project.as_str())
            .bind(device.0)
            .fetch_optional(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))?;
        Ok(row.and_then(|(at,)| at).map(Timestamp))
    }

    /// Returns a device's dispatched runs that have not ended, in the order of their requests.
    pub(crate) async fn dispatched_runs(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<Vec<OpenRun>, StoreError> {
        let sql = format!(
            "SELECT {RUN_COLUMNS} FROM {NAME}_runs r
             LEFT JOIN {NAME}_devices d ON d.project = r.project AND d.device = r.device
             WHERE r.project = $1 AND r.device = $2 AND r.state <> 'requested'
             ORDER BY r.operation LIMIT 200"
        );
        let rows: Vec<RunRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(project.as_str())
            .bind(device.0)
            .fetch_all(&self.log.stores().sql)
            .await
            .map_err(StoreError::sqlx(ATTEMPTED))?;
        rows.into_iter().map(run).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_no_open_run_has_is_an_error() {
        for state in RunState::ALL {
            assert_eq!(read_state(state.as_str()).ok(), (!state.is_final()).then_some(state));
        }
        for unknown in ["", "Requested", "paused"] {
            assert!(read_state(unknown).is_err(), "{unknown:?}");
        }
    }
}
