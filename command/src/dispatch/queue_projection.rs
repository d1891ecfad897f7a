//! The work queue: a projection of the log to its own tables, for the dispatcher alone.
//!
//! A run is removed when it has ended, an operation with its last run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::as_i64;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::events::{
    DeviceConnected, DeviceDeleted, DeviceDisconnected, DeviceEnrolled, DeviceEpochGranted,
    DeviceRevoked,
};
use muster_schemas::{
    DeviceId, Epoch, Event, OperationId, ProjectId, RunState, StreamName, StreamVersion, Timestamp,
    codec, run,
};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Name of the projection, and prefix of its tables' names.
pub const NAME: &str = "dispatch_v2";

/// Types of the events about devices that the projection handles.
const DEVICE_TYPES: &[&str] = &[
    DeviceEnrolled::TYPE,
    DeviceEpochGranted::TYPE,
    DeviceConnected::TYPE,
    DeviceDisconnected::TYPE,
    DeviceRevoked::TYPE,
    DeviceDeleted::TYPE,
];

/// The projection that fills the work queue.
#[derive(Debug)]
pub struct QueueProjection;

/// Changes of one run in a batch.
#[derive(Debug, Default)]
struct RunChange {
    is_new: bool,
    state: Option<RunState>,
    version: Option<StreamVersion>,
    dispatched: Option<(Epoch, Vec<u8>)>,
    is_canceled: bool,
    since: Timestamp,
    /// The state with which it first ended.
    first_end: Option<RunState>,
}

/// Changes of one device in a batch.
#[derive(Debug, Default)]
struct DeviceChange {
    epoch: Option<Epoch>,
    online: Option<bool>,
    /// Time of its last connection or disconnection.
    presence_at: Option<Timestamp>,
    is_removed: Option<bool>,
}

#[derive(Debug, Default)]
struct Changes {
    runs: BTreeMap<(OperationId, DeviceId), RunChange>,
    devices: BTreeMap<DeviceId, DeviceChange>,
}

#[async_trait]
impl Projection for QueueProjection {
    fn name(&self) -> &str {
        NAME
    }

    fn kinds(&self) -> Vec<&'static str> {
        // Those about files only for the version of a run's stream.
        let mut types = run::all_types();
        types.extend(DEVICE_TYPES);
        types
    }

    fn tables(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {NAME}_operations (
                 project   text COLLATE \"C\" NOT NULL,
                 operation uuid    NOT NULL,
                 actor     text    NOT NULL,
                 requested bytea   NOT NULL,   -- OperationRequested, CBOR
                 paused    boolean NOT NULL DEFAULT false,
                 aborted   boolean NOT NULL DEFAULT false,
                 failures  bigint  NOT NULL DEFAULT 0,
                 PRIMARY KEY (project, operation)
             );
             CREATE TABLE IF NOT EXISTS {NAME}_runs (
                 project   text COLLATE \"C\" NOT NULL,
                 operation uuid    NOT NULL,
                 device    uuid    NOT NULL,
                 state     text COLLATE \"C\" NOT NULL,
                 version   bigint  NOT NULL,
                 epoch     bigint  NOT NULL DEFAULT 0,
                 sealed    bytea,
                 canceled  boolean NOT NULL DEFAULT false,
                 since     bigint  NOT NULL,   -- microseconds since 1970
                 PRIMARY KEY (project, operation, device)
             );
             CREATE INDEX IF NOT EXISTS {NAME}_runs_device ON {NAME}_runs (project, device);
             CREATE TABLE IF NOT EXISTS {NAME}_devices (
                 project   text COLLATE \"C\" NOT NULL,
                 device    uuid    NOT NULL,
                 epoch     bigint  NOT NULL DEFAULT 0,
                 online    boolean NOT NULL DEFAULT false,
                 gone      boolean NOT NULL DEFAULT false,
                 PRIMARY KEY (project, device)
             );
             -- Microseconds since 1970; absent in rows of earlier releases.
             ALTER TABLE {NAME}_devices ADD COLUMN IF NOT EXISTS presence_at bigint"
        )
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let mut changes = Changes::default();
        for stored in events {
            let event = ProjectionError::decode(NAME, stored)?;
            match &stored.stream {
                StreamName::Operation(id) => {
                    operation(transaction, project, *id, &event, stored).await?;
                }
                StreamName::Run(id, device) => {
                    changes.apply_server_event((*id, *device), &event, stored);
                }
                stream => {
                    if let Some(device) = stream.device() {
                        changes.apply_device_event(device, &event, stored);
                    }
                }
            }
        }
        changes.write(transaction, project).await
    }
}

impl RunChange {
    fn apply(&mut self, event: &Event) {
        let state = self.state.unwrap_or_default().next(event);
        self.first_end = self.first_end.or(state.is_final().then_some(state));
        self.state = Some(state);
    }

    /// Whether the run has ended, and did not succeed; `None` while it is open. Its first end counts,
    /// because the row is deleted with it: the count does not depend on the size of the batches.
    fn is_unsuccessful(&self) -> Option<bool> {
        self.first_end.map(|end| end != RunState::Succeeded)
    }
}

impl Changes {
    fn apply_server_event(
        &mut self,
        run: (OperationId, DeviceId),
        event: &Event,
        stored: &StoredEvent,
    ) {
        let change = self.runs.entry(run).or_default();
        change.version = Some(stored.stream_version);
        match event {
            Event::RunRequested(_) => {
                change.is_new = true;
                change.state.get_or_insert_default();
                change.since = stored.recorded_at;
            }
            Event::RunDispatched(dispatched) => {
                change.apply(event);
                change.dispatched = Some((dispatched.epoch, dispatched.order.clone()));
                change.since = stored.recorded_at;
            }
            Event::RunCancelRequested(_) => change.is_canceled = true,
            Event::RunClosed(_) => change.apply(event),
            _ => {}
        }
    }

    fn apply_device_event(&mut self, device: DeviceId, event: &Event, stored: &StoredEvent) {
        if let Some(reported) = run::device_report(event) {
            let change = self.runs.entry((reported.operation, device)).or_default();
            change.apply(event);
            change.since = stored.recorded_at;
            return;
        }
        let change = self.devices.entry(device).or_default();
        if matches!(event, Event::DeviceConnected(_) | Event::DeviceDisconnected(_)) {
            change.presence_at = Some(stored.recorded_at);
        }
        match event {
            Event::DeviceEnrolled(event) => {
                change.epoch = Some(event.epoch);
                change.is_removed = Some(false);
            }
            Event::DeviceEpochGranted(event) => change.epoch = Some(event.epoch),
            Event::DeviceConnected(_) => change.online = Some(true),
            Event::DeviceDisconnected(_) => change.online = Some(false),
            Event::DeviceRevoked(_) | Event::DeviceDeleted(_) => change.is_removed = Some(true),
            _ => {}
        }
    }

    async fn write(
        self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
    ) -> Result<(), ProjectionError> {
        write_devices(transaction, project, &self.devices).await?;
        write_runs(transaction, project, &self.runs).await
    }
}

async fn execute(
    transaction: &Transaction<'_>,
    sql: String,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<u64, StoreError> {
    transaction
        .execute(&sql, parameters)
        .await
        .map_err(StoreError::query("write the list of open runs"))
}

async fn operation(
    transaction: &Transaction<'_>,
    project: &ProjectId,
    id: OperationId,
    event: &Event,
    stored: &StoredEvent,
) -> Result<(), StoreError> {
    let (project, id) = (project.as_str(), id.0);
    let set = match event {
        Event::OperationRequested(requested) => {
            let sql = format!(
                "INSERT INTO {NAME}_operations (project, operation, actor, requested)
                 VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
            );
            let requested = codec::encode(requested);
            let parameters: [&(dyn ToSql + Sync); 4] = [&project, &id, &stored.actor, &requested];
            return execute(transaction, sql, &parameters).await.map(drop);
        }
        Event::OperationPaused(_) => "paused = true",
        Event::OperationResumed(_) => "paused = false",
        Event::OperationAborted(_) => "aborted = true",
        _ => return Ok(()),
    };
    let sql = format!("UPDATE {NAME}_operations SET {set} WHERE project = $1 AND operation = $2");
    execute(transaction, sql, &[&project, &id]).await.map(drop)
}

async fn write_devices(
    transaction: &Transaction<'_>,
    project: &ProjectId,
    changes: &BTreeMap<DeviceId, DeviceChange>,
) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let devices: Vec<Uuid> = changes.keys().map(|device| device.0).collect();
    let epochs: Vec<Option<i64>> =
        changes.values().map(|change| change.epoch.map(as_i64)).collect();
    let online: Vec<Option<bool>> = changes.values().map(|change| change.online).collect();
    let removed: Vec<Option<bool>> = changes.values().map(|change| change.is_removed).collect();
    let presence_at: Vec<Option<i64>> =
        changes.values().map(|change| change.presence_at.map(Timestamp::micros)).collect();
    let sql = format!(
        "INSERT INTO {NAME}_devices AS d (project, device, epoch, online, gone, presence_at)
         SELECT $1, n.device, coalesce(n.epoch, 0), coalesce(n.online, false),
                coalesce(n.gone, false), n.presence_at
         FROM unnest($2::uuid[], $3::bigint[], $4::boolean[], $5::boolean[], $6::bigint[])
              AS n (device, epoch, online, gone, presence_at)
         ON CONFLICT (project, device) DO UPDATE SET
             epoch = greatest(d.epoch, excluded.epoch),
             presence_at = coalesce(excluded.presence_at, d.presence_at),
             online = coalesce((SELECT u.online FROM unnest($2::uuid[], $4::boolean[])
                                AS u (device, online) WHERE u.device = d.device), d.online),
             gone = coalesce((SELECT u.gone FROM unnest($2::uuid[], $5::boolean[])
                              AS u (device, gone) WHERE u.device = d.device), d.gone)"
    );
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&project.as_str(), &devices, &epochs, &online, &removed, &presence_at];
    execute(transaction, sql, &parameters).await.map(drop)
}

async fn write_runs(
    transaction: &Transaction<'_>,
    project: &ProjectId,
    changes: &BTreeMap<(OperationId, DeviceId), RunChange>,
) -> Result<(), ProjectionError> {
    let project = project.as_str();
    let new: Vec<_> = changes.iter().filter(|(_, change)| change.is_new).collect();
    if !new.is_empty() {
        let sql = format!(
            "INSERT INTO {NAME}_runs (project, operation, device, state, version, since)
             SELECT $1, n.operation, n.device, 'requested', 1, n.since
             FROM unnest($2::uuid[], $3::uuid[], $4::bigint[]) AS n (operation, device, since)
             ON CONFLICT DO NOTHING"
        );
        let operations: Vec<Uuid> = new.iter().map(|((operation, _), _)| operation.0).collect();
        let devices: Vec<Uuid> = new.iter().map(|((_, device), _)| device.0).collect();
        let since: Vec<i64> = new.iter().map(|(_, change)| change.since.micros()).collect();
        let parameters: [&(dyn ToSql + Sync); 4] = [&project, &operations, &devices, &since];
        execute(transaction, sql, &parameters).await?;
    }
    let is_only_new = |change: &RunChange| {
        change.is_new
            && change.version == Some(StreamVersion::FIRST)
            && change.state == Some(RunState::Requested)
    };
    let moved: Vec<_> = changes
        .iter()
        .filter(|(_, change)| change.is_unsuccessful().is_none() && !is_only_new(change))
        .collect();
    if !moved.is_empty() {
        update_runs(transaction, project, &moved).await?;
    }
    let over: Vec<_> = changes
        .iter()
        .filter_map(|(run, change)| Some((*run, change.is_unsuccessful()?)))
        .collect();
    if !over.is_empty() {
        close_runs(transaction, project, &over).await?;
    }
    Ok(())
}

async fn update_runs(
    transaction: &Transaction<'_>,
    project: &str,
    updated: &[(&(OperationId, DeviceId), &RunChange)],
) -> Result<(), StoreError> {
    let open: Vec<&str> = RunState::ALL
        .iter()
        .filter(|state| !state.is_final())
        .map(|state| state.as_str())
        .collect();
    // The states of open runs only advance.
    let advances = format!(
        "array_position('{{{open}}}'::text[], n.state) >=
             array_position('{{{open}}}'::text[], r.state)",
        open = open.join(",")
    );
    let sql = format!(
        "UPDATE {NAME}_runs AS r SET
             state = CASE WHEN {advances} THEN n.state ELSE r.state END,
             version = coalesce(n.version, r.version),
             epoch = coalesce(n.epoch, r.epoch),
             sealed = coalesce(n.sealed, r.sealed),
             canceled = r.canceled OR n.canceled,
             since = CASE WHEN {advances} THEN n.since ELSE r.since END
         FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::bigint[], $7::bytea[],
                     $8::boolean[], $9::bigint[])
              AS n (operation, device, state, version, epoch, sealed, canceled, since)
         WHERE r.project = $1 AND r.operation = n.operation AND r.device = n.device"
    );
    let operations: Vec<Uuid> = updated.iter().map(|((operation, _), _)| operation.0).collect();
    let devices: Vec<Uuid> = updated.iter().map(|((_, device), _)| device.0).collect();
    let states: Vec<Option<&str>> =
        updated.iter().map(|(_, change)| change.state.map(RunState::as_str)).collect();
    let versions: Vec<Option<i64>> =
        updated.iter().map(|(_, change)| change.version.map(as_i64)).collect();
    let order = |change: &&RunChange| change.dispatched.clone();
    let epochs: Vec<Option<i64>> =
        updated.iter().map(|(_, change)| order(change).map(|order| as_i64(order.0))).collect();
    let sealed: Vec<Option<Vec<u8>>> =
        updated.iter().map(|(_, change)| order(change).map(|order| order.1)).collect();
    let canceled: Vec<bool> = updated.iter().map(|(_, change)| change.is_canceled).collect();
    let since: Vec<i64> = updated.iter().map(|(_, change)| change.since.micros()).collect();
    let parameters: [&(dyn ToSql + Sync); 9] =
        [&project, &operations, &devices, &states, &versions, &epochs, &sealed, &canceled, &since];
    execute(transaction, sql, &parameters).await.map(drop)
}

/// Removes runs that have ended, counts unsuccessful ones, and removes operations without further
/// runs.
async fn close_runs(
    transaction: &Transaction<'_>,
    project: &str,
    ended: &[((OperationId, DeviceId), bool)],
) -> Result<(), StoreError> {
    let operations: Vec<Uuid> = ended.iter().map(|((operation, _), _)| operation.0).collect();
    let devices: Vec<Uuid> = ended.iter().map(|((_, device), _)| device.0).collect();
    let failed: Vec<bool> = ended.iter().map(|(_, failed)| *failed).collect();
    let sql = format!(
        "WITH over AS (
             DELETE FROM {NAME}_runs r
             USING unnest($2::uuid[], $3::uuid[], $4::boolean[]) AS n (operation, device, failed)
             WHERE r.project = $1 AND r.operation = n.operation AND r.device = n.device
             RETURNING r.operation, n.failed
         ), counted AS (
             SELECT operation, count(*) FILTER (WHERE failed) AS failures FROM over GROUP BY 1
         )
         UPDATE {NAME}_operations o SET failures = o.failures + c.failures
         FROM counted c WHERE o.project = $1 AND o.operation = c.operation AND c.failures > 0"
    );
    let parameters: [&(dyn ToSql + Sync); 4] = [&project, &operations, &devices, &failed];
    execute(transaction, sql, &parameters).await?;
    let touched: BTreeSet<Uuid> = operations.into_iter().collect();
    let touched: Vec<Uuid> = touched.into_iter().collect();
    let sql = format!(
        "DELETE FROM {NAME}_operations o WHERE o.project = $1 AND o.operation = ANY($2)
           AND NOT EXISTS (SELECT FROM {NAME}_runs r
                           WHERE r.project = o.project AND r.operation = o.operation)"
    );
    execute(transaction, sql, &[&project, &touched]).await.map(drop)
}
