//! The table of devices: batches are folded in memory, and each changed device is written once.
//!
//! The column `state` has the whole state as JSON text (it reads back exactly, which `jsonb` does
//! not guarantee for numbers); lists filter, sort and count by the other columns.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::{DeviceId, ProjectId};
use uuid::Uuid;

use super::fold::{changed_device, is_replaced_by_next};
use super::state::Device;
use crate::projections::{as_i64, storable};

/// Maximum number of devices that are cached between batches; beyond it, the cache is cleared.
const MAX_CACHED_DEVICES: usize = 20_000;

/// Fills the table of devices.
#[derive(Debug)]
pub struct Devices {
    table: String,
    insert: String,
    update: String,
    select: String,
    /// Rows as they are in the table once the batch is committed.
    cached: HashMap<(ProjectId, DeviceId), Device>,
}

/// The columns after `project` and `device`, with their types.
const COLUMNS: &[(&str, &str)] = &[
    ("name", "text"),
    ("status", "text"),
    ("labels", "text"),
    ("search", "text"),
    ("os", "text"),
    ("arch", "text"),
    ("agent_version", "text"),
    ("created_position", "bigint"),
    ("heard_at", "bigint"),
    ("state", "text"),
];

impl Devices {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        let table = table.into();
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        let arrays: Vec<String> = COLUMNS
            .iter()
            .enumerate()
            .map(|(index, (_, kind))| format!("${}::{kind}[]", index + 3))
            .collect();
        // `labels` is sent as text, and is the only column that PostgreSQL has to parse.
        let value = |name: &&str| match *name {
            "labels" => "n.labels::jsonb".to_owned(),
            name => format!("n.{name}"),
        };
        let values: Vec<String> = names.iter().map(value).collect();
        let sets: Vec<String> =
            names.iter().zip(&values).map(|(name, value)| format!("{name} = {value}")).collect();
        let (names, arrays) = (names.join(", "), arrays.join(", "));
        Self {
            insert: format!(
                "INSERT INTO {table} (project, device, {names})
                 SELECT $1, n.device, {} FROM unnest($2::uuid[], {arrays}) AS n (device, {names})",
                values.join(", ")
            ),
            update: format!(
                "UPDATE {table} AS t SET {}
                 FROM unnest($2::uuid[], {arrays}) AS n (device, {names})
                 WHERE t.project = $1 AND t.device = n.device",
                sets.join(", ")
            ),
            select: format!(
                "SELECT device, state FROM {table} WHERE project = $1 AND device = ANY($2)"
            ),
            table,
            cached: HashMap::new(),
        }
    }

    /// Reads the rows of devices that are not cached; returns the devices without a row.
    async fn load(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        devices: &HashSet<DeviceId>,
    ) -> Result<HashSet<DeviceId>, ProjectionError> {
        let mut missing: HashSet<DeviceId> = devices
            .iter()
            .filter(|device| !self.cached.contains_key(&(project.clone(), **device)))
            .copied()
            .collect();
        if missing.is_empty() {
            return Ok(missing);
        }
        let ids: Vec<Uuid> = missing.iter().map(|device| device.0).collect();
        let rows = transaction
            .query(&self.select, &[&project.as_str(), &ids])
            .await
            .map_err(store_error("read devices"))?;
        for row in rows {
            let id = DeviceId(row.get(0));
            let device = serde_json::from_str(row.get(1)).map_err(|error| {
                StoreError::Corrupt(format!("{}: device {id}: {error}", self.table))
            })?;
            missing.remove(&id);
            self.cached.insert((project.clone(), id), device);
        }
        Ok(missing)
    }

    /// Writes the rows of these devices.
    async fn write(
        &self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        devices: impl Iterator<Item = &DeviceId>,
        sql: &str,
    ) -> Result<(), ProjectionError> {
        let mut columns = Columns::default();
        for id in devices {
            if let Some(device) = self.cached.get(&(project.clone(), *id)) {
                columns.push(*id, device)?;
            }
        }
        if columns.device.is_empty() {
            return Ok(());
        }
        transaction
            .execute(
                sql,
                &[
                    &project.as_str(),
                    &columns.device,
                    &columns.name,
                    &columns.status,
                    &columns.labels,
                    &columns.search,
                    &columns.os,
                    &columns.arch,
                    &columns.agent_version,
                    &columns.created_position,
                    &columns.heard_at,
                    &columns.state,
                ],
            )
            .await
            .map_err(store_error("write devices"))?;
        Ok(())
    }
}

#[async_trait]
impl Projection for Devices {
    fn name(&self) -> &str {
        &self.table
    }

    fn tables(&self) -> String {
        let table = &self.table;
        // There is no index on labels: it would cost a quarter of the rate, and reading all devices
        // of a project takes milliseconds. `name` is unique among devices that are not deleted
        // because the stream `name/<name>` reserves it.
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                 project          text COLLATE \"C\" NOT NULL,
                 device           uuid   NOT NULL,
                 name             text COLLATE \"C\",
                 status           text COLLATE \"C\" NOT NULL,
                 labels           jsonb  NOT NULL,
                 search           text   NOT NULL,  -- name, hostname, labels; lower case
                 os               text,
                 arch             text,
                 agent_version    text,
                 created_position bigint NOT NULL,
                 heard_at         bigint,           -- microseconds since 1970
                 state            text   NOT NULL,
                 PRIMARY KEY (project, device)
             ) WITH (fillfactor = 50);
             CREATE INDEX IF NOT EXISTS {table}_name ON {table} (project, name, device)"
        )
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let touched: HashSet<DeviceId> =
            events.iter().filter_map(|event| changed_device(event)).collect();
        if touched.is_empty() {
            return Ok(());
        }
        if self.cached.len() + touched.len() > MAX_CACHED_DEVICES {
            self.cached.clear();
        }
        let new = self.load(transaction, project, &touched).await?;
        let needed = needed(events);
        for (stored, needed) in events.iter().zip(needed) {
            let Some(id) = changed_device(stored) else {
                continue;
            };
            let device = self.cached.entry((project.clone(), id)).or_default();
            device.apply_metadata(stored);
            if needed {
                device
                    .apply(stored)
                    .map_err(|error| ProjectionError::cannot_apply(&self.table, stored, &error))?;
            }
        }
        self.write(transaction, project, new.iter(), &self.insert).await?;
        self.write(transaction, project, touched.difference(&new), &self.update).await
    }

    fn discard_cache(&mut self) {
        self.cached.clear();
    }
}

/// Returns for each event whether its content is needed: no later one of the batch replaces it.
#[must_use]
pub fn needed<E: AsRef<StoredEvent>>(events: &[E]) -> Vec<bool> {
    let mut replaced: HashSet<(DeviceId, &str)> = HashSet::new();
    let mut needed: Vec<bool> = events
        .iter()
        .map(AsRef::as_ref)
        .rev()
        .map(|event: &StoredEvent| match changed_device(event) {
            Some(device) if is_replaced_by_next(&event.kind) => {
                replaced.insert((device, event.kind.as_str()))
            }
            Some(_) => true,
            None => false,
        })
        .collect();
    needed.reverse();
    needed
}

/// The rows to write, as one array for each column.
#[derive(Default)]
struct Columns {
    device: Vec<Uuid>,
    name: Vec<Option<String>>,
    status: Vec<&'static str>,
    labels: Vec<String>,
    search: Vec<String>,
    os: Vec<Option<String>>,
    arch: Vec<Option<String>>,
    agent_version: Vec<Option<String>>,
    created_position: Vec<i64>,
    heard_at: Vec<Option<i64>>,
    state: Vec<String>,
}

impl Columns {
    fn push(&mut self, id: DeviceId, device: &Device) -> Result<(), StoreError> {
        let json = |error: serde_json::Error| StoreError::Corrupt(format!("device {id}: {error}"));
        let inventory = device.inventory.as_ref();
        self.device.push(id.0);
        self.name.push(device.name.as_ref().map(ToString::to_string));
        self.status.push(device.status().as_str());
        self.labels.push(serde_json::to_string(&device.labels).map_err(json)?);
        self.search.push(storable(&search_text(device)));
        self.os.push(
            inventory.and_then(|it| it.os_name.as_deref().or(it.os_id.as_deref())).map(storable),
        );
        self.arch.push(inventory.and_then(|it| it.arch.as_deref()).map(storable));
        self.agent_version.push(inventory.map(|it| storable(&it.agent_version)));
        self.created_position.push(as_i64(device.created_position));
        self.heard_at.push(device.heard_at.map(muster_schemas::Timestamp::micros));
        self.state.push(serde_json::to_string(device).map_err(json)?);
        Ok(())
    }
}

/// Returns the text that a search compares: name, hostname, labels; lower case.
#[must_use]
pub(crate) fn search_text(device: &Device) -> String {
    let mut text = String::new();
    if let Some(name) = &device.name {
        text.push_str(name.as_str());
    }
    if let Some(hostname) = device.hostname() {
        text.push(' ');
        text.push_str(hostname);
    }
    for (key, value) in &device.labels {
        text.push(' ');
        text.push_str(key.as_str());
        text.push('=');
        text.push_str(value.as_str());
    }
    text.to_lowercase()
}

pub(crate) fn store_error(
    operation: &'static str,
) -> impl FnOnce(tokio_postgres::Error) -> StoreError {
    move |source| StoreError::Query { attempted: operation, source }
}
