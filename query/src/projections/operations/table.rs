//! The tables of operations and runs: batches are folded in memory, and each changed row is written
//! once.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::{DeviceId, Event, OperationId, ProjectId, StreamName, run};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fold::{Operation, Run};
use super::uploads;
use crate::projections::devices::store_error;
use crate::projections::{as_i64, storable};

/// Fills the tables.
#[derive(Debug)]
pub struct Operations {
    table: String,
}

type RunKey = (OperationId, DeviceId);

impl Operations {
    /// Creates the projection for tables of this name: the live ones, or those of a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into() }
    }

    async fn load_operations(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        ids: &[Uuid],
    ) -> Result<BTreeMap<OperationId, Operation>, ProjectionError> {
        let sql = format!(
            "SELECT operation, state FROM {} WHERE project = $1 AND operation = ANY($2)",
            self.table
        );
        let rows = transaction
            .query(&sql, &[&project, &ids])
            .await
            .map_err(store_error("read operations"))?;
        rows.iter().map(|row| Ok((OperationId(row.get(0)), self.state(row.get(1))?))).collect()
    }

    async fn load_runs(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        keys: &[RunKey],
    ) -> Result<BTreeMap<RunKey, Run>, ProjectionError> {
        let sql = format!(
            "SELECT r.operation, r.device, r.state FROM {}_runs r
             JOIN unnest($2::uuid[], $3::uuid[]) AS n (operation, device)
               ON n.operation = r.operation AND n.device = r.device
             WHERE r.project = $1",
            self.table
        );
        let operations: Vec<Uuid> = keys.iter().map(|(operation, _)| operation.0).collect();
        let devices: Vec<Uuid> = keys.iter().map(|(_, device)| device.0).collect();
        let rows = transaction
            .query(&sql, &[&project, &operations, &devices])
            .await
            .map_err(store_error("read runs"))?;
        rows.iter()
            .map(|row| {
                let key = (OperationId(row.get(0)), DeviceId(row.get(1)));
                Ok((key, self.state(row.get(2))?))
            })
            .collect()
    }

    fn state<T: serde::de::DeserializeOwned>(&self, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text)
            .map_err(|error| StoreError::Corrupt(format!("{}: {error}", self.table)))
    }

    async fn write_operations(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        operations: &BTreeMap<OperationId, Operation>,
    ) -> Result<(), ProjectionError> {
        let sql = format!(
            "INSERT INTO {} (project, operation, created_position, state) VALUES ($1, $2, $3, $4)
             ON CONFLICT (project, operation) DO UPDATE SET state = excluded.state",
            self.table
        );
        for (id, operation) in operations {
            let position = as_i64(operation.created_position);
            let state = json(operation)?;
            let parameters: [&(dyn ToSql + Sync); 4] = [&project, &id.0, &position, &state];
            transaction
                .execute(&sql, &parameters)
                .await
                .map_err(store_error("write operations"))?;
        }
        Ok(())
    }

    async fn write_runs(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        runs: &BTreeMap<RunKey, Run>,
    ) -> Result<(), ProjectionError> {
        let sql = format!(
            "INSERT INTO {} AS r (project, operation, device, status, duration, failure, state)
             SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[],
                                      $7::text[])
             ON CONFLICT (project, operation, device) DO UPDATE SET status = excluded.status,
                 duration = excluded.duration, failure = excluded.failure, state = excluded.state",
            format_args!("{}_runs", self.table)
        );
        let operations: Vec<Uuid> = runs.keys().map(|(operation, _)| operation.0).collect();
        let devices: Vec<Uuid> = runs.keys().map(|(_, device)| device.0).collect();
        let status: Vec<&str> = runs.values().map(|run| run.state.as_str()).collect();
        let durations: Vec<Option<i64>> = runs.values().map(Run::duration).collect();
        let failures: Vec<Option<String>> = runs
            .values()
            .map(|run| run.failure().map(|reason| storable(&truncate_reason(&reason))))
            .collect();
        let states: Vec<String> = runs.values().map(json).collect::<Result<_, _>>()?;
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&project, &operations, &devices, &status, &durations, &failures, &states];
        transaction.execute(&sql, &parameters).await.map_err(store_error("write runs"))?;
        Ok(())
    }
}

fn json<T: serde::Serialize>(state: &T) -> Result<String, StoreError> {
    serde_json::to_string(state).map_err(|error| StoreError::Corrupt(error.to_string()))
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
        &self.table
    }

    fn kinds(&self) -> Vec<&'static str> {
        run::all_types()
    }

    fn tables(&self) -> String {
        let table = &self.table;
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                 project          text COLLATE \"C\" NOT NULL,
                 operation        uuid   NOT NULL,
                 created_position bigint NOT NULL,
                 state            text   NOT NULL,
                 PRIMARY KEY (project, operation)
             );
             CREATE TABLE IF NOT EXISTS {table}_runs (
                 project   text COLLATE \"C\" NOT NULL,
                 operation uuid NOT NULL,
                 device    uuid NOT NULL,
                 status    text COLLATE \"C\" NOT NULL,
                 duration  bigint,            -- microseconds
                 failure   text,              -- why it did not succeed
                 state     text NOT NULL,
                 PRIMARY KEY (project, operation, device)
             );
             CREATE INDEX IF NOT EXISTS {table}_runs_device
                 ON {table}_runs (project, device, operation);
             {}",
            uploads::tables(table)
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
            let event = stored
                .event()
                .map_err(|error| ProjectionError::cannot_apply(&self.table, stored, &error))?;
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
        let mut started: BTreeMap<OperationId, Vec<(DeviceId, u64)>> = BTreeMap::new();
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
                uploads::add(&self.table, transaction, project, (id, &upload.path), &runs).await?;
            }
        }
        uploads::erase(&self.table, transaction, project, &erased).await
    }

    fn discard_cache(&mut self) {}
}
