//! The tables of operations and runs: batches are folded in memory, and each changed row is written
//! once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_eventlog::StoredEvent;
use muster_eventlog::as_i64;
use muster_eventlog::projection::{
    Column, Columns, Projection, ProjectionError, Table, Transaction, Write,
};
use muster_schemas::{DeviceId, Event, OperationId, Position, ProjectId, StreamName, run};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fold::{Operation, Run};
use super::uploads::Uploads;
use crate::projections::{decode, encode, storable};

const OPERATIONS: Columns = Columns {
    key: &[Column::new("operation", "uuid")],
    values: &[Column::new("created_position", "bigint"), Column::new("state", "text")],
};
const RUNS: Columns = Columns {
    key: &[Column::new("operation", "uuid"), Column::new("device", "uuid")],
    values: &[
        Column::key_text("status"),
        Column::new("duration", "bigint").or_null(), // microseconds
        Column::new("failure", "text").or_null(),    // why it did not succeed
        Column::new("state", "text"),
    ],
};

/// Fills the tables.
#[derive(Debug)]
pub struct Operations {
    table: Table,
    runs: Table,
    uploads: Uploads,
}

type RunKey = (OperationId, DeviceId);

impl Operations {
    /// Creates the projection for tables of this name: the live ones, or those of a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        let table = Table::new(table, OPERATIONS);
        let runs = Table::new(format!("{}_runs", table.name()), RUNS);
        Self { runs, uploads: Uploads::of(table.name()), table }
    }

    async fn load_operations(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        ids: &[Uuid],
    ) -> Result<BTreeMap<OperationId, Operation>, ProjectionError> {
        let rows = self.table.read(transaction, project, &[&ids], "operation, state").await?;
        rows.iter()
            .map(|row| Ok((OperationId(row.get(0)), decode(&self.table, row.get(1))?)))
            .collect()
    }

    async fn load_runs(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        keys: &[RunKey],
    ) -> Result<BTreeMap<RunKey, Run>, ProjectionError> {
        let operations: Vec<Uuid> = keys.iter().map(|(operation, _)| operation.0).collect();
        let devices: Vec<Uuid> = keys.iter().map(|(_, device)| device.0).collect();
        let keys: [&(dyn ToSql + Sync); 2] = [&operations, &devices];
        let rows = self.runs.read(transaction, project, &keys, "operation, device, state").await?;
        rows.iter()
            .map(|row| {
                let key = (OperationId(row.get(0)), DeviceId(row.get(1)));
                Ok((key, decode(&self.runs, row.get(2))?))
            })
            .collect()
    }

    async fn write_operations(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        operations: &BTreeMap<OperationId, Operation>,
    ) -> Result<(), ProjectionError> {
        let ids: Vec<Uuid> = operations.keys().map(|id| id.0).collect();
        let positions: Vec<i64> =
            operations.values().map(|operation| as_i64(operation.created_position)).collect();
        let states: Vec<String> = operations
            .values()
            .map(|operation| encode(&self.table, operation))
            .collect::<Result<_, _>>()?;
        let arrays: [&(dyn ToSql + Sync); 3] = [&ids, &positions, &states];
        Ok(self.table.write(transaction, project, Write::Upsert, &arrays).await?)
    }

    async fn write_runs(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        runs: &BTreeMap<RunKey, Run>,
    ) -> Result<(), ProjectionError> {
        let operations: Vec<Uuid> = runs.keys().map(|(operation, _)| operation.0).collect();
        let devices: Vec<Uuid> = runs.keys().map(|(_, device)| device.0).collect();
        let status: Vec<&str> = runs.values().map(|run| run.state.as_str()).collect();
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let durations: Vec<Option<i64>> =
            runs.values().map(|run| run.duration().map(micros)).collect();
        let failures: Vec<Option<String>> = runs
            .values()
            .map(|run| run.failure().map(|reason| storable(&truncate_reason(&reason))))
            .collect();
        let states: Vec<String> =
            runs.values().map(|run| encode(&self.runs, run)).collect::<Result<_, _>>()?;
        let arrays: [&(dyn ToSql + Sync); 6] =
            [&operations, &devices, &status, &durations, &failures, &states];
        Ok(self.runs.write(transaction, project, Write::Upsert, &arrays).await?)
    }
}

/// Limits a reason to one line of a bounded length.
fn truncate_reason(reason: &str) -> String {
    reason.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the run that an event is about.
fn run_of(stored: &StoredEvent, event: &Event) -> Option<RunKey> {
    if let Some(reported) = run::device_report(event) {
        return Some((reported.operation, stored.stream.device()?));
    }
    match stored.stream {
        StreamName::Run(operation, device) => Some((operation, device)),
        _ => None,
    }
}

#[async_trait]
impl Projection for Operations {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn kinds(&self) -> Vec<&'static str> {
        run::all_types()
    }

    fn tables(&self) -> String {
        let runs = self.runs.name();
        format!(
            "{}; {};
             CREATE INDEX IF NOT EXISTS {runs}_device ON {runs} (project, device, operation);
             {}",
            self.table.create(),
            self.runs.create(),
            self.uploads.tables()
        )
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let project = project.as_str();
        let mut read = Vec::with_capacity(events.len());
        for stored in events {
            let event = ProjectionError::decode(self.table.name(), stored)?;
            read.push((stored, event));
        }
        let mut ids: Vec<Uuid> = Vec::new();
        let mut keys: Vec<RunKey> = Vec::new();
        for (stored, event) in &read {
            match (&stored.stream, run_of(stored, event)) {
                (StreamName::Operation(id), _) => ids.push(id.0),
                (_, Some(key)) => keys.push(key),
                _ => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let mut operations = self.load_operations(transaction, project, &ids).await?;
        let mut runs = self.load_runs(transaction, project, &keys).await?;
        for (stored, event) in &read {
            if let StreamName::Operation(id) = stored.stream {
                operations.entry(id).or_default().evolve(stored, event);
            } else if let Some(key) = run_of(stored, event) {
                // A device may report a run that was never requested: it creates no row.
                let is_requested = matches!(event, Event::RunRequested(_));
                if is_requested || runs.contains_key(&key) {
                    runs.entry(key).or_default().evolve(stored, event);
                }
            }
        }
        self.write_operations(transaction, project, &operations).await?;
        self.write_runs(transaction, project, &runs).await?;
        let mut started: BTreeMap<OperationId, Vec<(DeviceId, Position)>> = BTreeMap::new();
        let mut erased: Vec<RunKey> = Vec::new();
        for (stored, event) in &read {
            if let StreamName::Run(operation, device) = stored.stream {
                match event {
                    Event::RunRequested(_) => {
                        started.entry(operation).or_default().push((device, stored.position));
                    }
                    Event::UploadErased(_) => erased.push((operation, device)),
                    _ => {}
                }
            }
        }
        let ids: Vec<Uuid> = started.keys().map(|id| id.0).collect();
        let loaded = self.load_operations(transaction, project, &ids).await?;
        for (id, runs) in started {
            if let Some(upload) = loaded.get(&id).and_then(Operation::upload) {
                self.uploads.add(transaction, project, id, &upload.path, &runs).await?;
            }
        }
        self.uploads.erase(transaction, project, &erased).await
    }
}
