//! The table of devices: batches are folded in memory, and each changed device is written once.
//!
//! The column `state` has the whole state as JSON text (it reads back exactly, which `jsonb` does
//! not guarantee for numbers); lists filter, sort and count by the other columns.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use muster_api_types::devices::Status;
use muster_eventlog::as_i64;
use muster_eventlog::projection::{
    Column, Columns, Projection, ProjectionError, Table, Transaction, Write,
};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::names::{DeviceName, Labels};
use muster_schemas::{DeviceId, ProjectId, StreamVersion, Timestamp};
use serde::Serialize;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fold::{changed_device, is_replaced_by_next};
use super::state::Device;
use crate::projections::{decode, encode, storable};

/// Maximum number of devices that are cached between batches; beyond it, the cache is cleared.
const MAX_CACHED_DEVICES: usize = 20_000;

/// There is no index on labels: it would cost a quarter of the rate, and reading all devices of a
/// project takes milliseconds. `name` is unique among devices that are not deleted because the
/// stream `name/<name>` reserves it.
const COLUMNS: Columns = Columns {
    key: &[Column::new("device", "uuid")],
    values: &[
        Column::key_text("name").or_null(),
        Column::key_text("status"),
        Column::new("labels", "jsonb"),
        Column::new("search", "text"), // name, hostname, labels; lower case
        Column::new("os", "text").or_null(),
        Column::new("arch", "text").or_null(),
        Column::new("agent_version", "text").or_null(),
        Column::new("os_id", "text").or_null(),
        Column::new("hostname", "text").or_null(),
        Column::new("created_position", "bigint"),
        Column::new("heard_at", "bigint").or_null(), // microseconds since 1970
        Column::new("item", "text"), // JSON of an item of a list, without what only memory has
        Column::new("state", "text"),
    ],
};

/// Fills the table of devices.
#[derive(Debug)]
pub struct Devices {
    table: Table,
    /// Rows as they are in the table once the batch is committed.
    cached: HashMap<(ProjectId, DeviceId), Device>,
}

impl Devices {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: Table::new(table, COLUMNS), cached: HashMap::new() }
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
        let rows = self.table.read(transaction, project.as_str(), &[&ids], "device, state").await?;
        for row in rows {
            let id = DeviceId(row.get(0));
            missing.remove(&id);
            self.cached.insert((project.clone(), id), decode(&self.table, row.get(1))?);
        }
        Ok(missing)
    }

    /// Writes the rows of these devices.
    async fn write(
        &self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        devices: impl Iterator<Item = &DeviceId>,
        how: Write,
    ) -> Result<(), ProjectionError> {
        let mut rows = Rows::default();
        for id in devices {
            if let Some(device) = self.cached.get(&(project.clone(), *id)) {
                rows.push(*id, device, encode(&self.table, device)?)?;
            }
        }
        if rows.device.is_empty() {
            return Ok(());
        }
        let arrays: [&(dyn ToSql + Sync); 14] = [
            &rows.device,
            &rows.name,
            &rows.status,
            &rows.labels,
            &rows.search,
            &rows.os,
            &rows.arch,
            &rows.agent_version,
            &rows.os_id,
            &rows.hostname,
            &rows.created_position,
            &rows.heard_at,
            &rows.item,
            &rows.state,
        ];
        Ok(self.table.write(transaction, project.as_str(), how, &arrays).await?)
    }
}

#[async_trait]
impl Projection for Devices {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn tables(&self) -> String {
        let name = self.table.name();
        format!(
            "{} WITH (fillfactor = 50);
             CREATE INDEX IF NOT EXISTS {name}_name ON {name} (project, name, device)",
            self.table.create()
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
                device.apply(stored).map_err(|error| {
                    ProjectionError::cannot_apply(self.table.name(), stored, &error)
                })?;
            }
        }
        self.write(transaction, project, new.iter(), Write::Insert).await?;
        self.write(transaction, project, touched.difference(&new), Write::Update).await
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

/// The stored part of an item of a list; the API adds `last_seen_at` and `metrics` from memory.
#[derive(Serialize)]
struct ListItem<'a> {
    id: DeviceId,
    name: Option<&'a DeviceName>,
    status: Status,
    labels: &'a Labels,
    hostname: Option<&'a str>,
    os: Option<&'a str>,
    arch: Option<&'a str>,
    agent_version: Option<&'a str>,
    created_at: Timestamp,
    created_by: &'a str,
    version: StreamVersion,
}

impl<'a> ListItem<'a> {
    fn of(id: DeviceId, device: &'a Device) -> Self {
        let inventory = device.inventory.as_ref();
        Self {
            id,
            name: device.name.as_ref(),
            status: device.status(),
            labels: &device.labels,
            hostname: device.hostname(),
            os: inventory.and_then(|it| it.os_name.as_deref().or(it.os_id.as_deref())),
            arch: inventory.and_then(|it| it.arch.as_deref()),
            agent_version: inventory.map(|it| it.agent_version.as_str()),
            created_at: device.created_at,
            created_by: &device.created_by,
            version: device.version,
        }
    }
}

/// The rows to write, as one array for each column.
#[derive(Default)]
struct Rows {
    device: Vec<Uuid>,
    name: Vec<Option<String>>,
    status: Vec<&'static str>,
    labels: Vec<String>,
    search: Vec<String>,
    os: Vec<Option<String>>,
    arch: Vec<Option<String>>,
    agent_version: Vec<Option<String>>,
    os_id: Vec<Option<String>>,
    hostname: Vec<Option<String>>,
    created_position: Vec<i64>,
    heard_at: Vec<Option<i64>>,
    item: Vec<String>,
    state: Vec<String>,
}

impl Rows {
    fn push(&mut self, id: DeviceId, device: &Device, state: String) -> Result<(), StoreError> {
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
        self.os_id.push(inventory.and_then(|it| it.os_id.as_deref()).map(storable));
        self.hostname.push(device.hostname().map(storable));
        self.created_position.push(as_i64(device.created_position));
        self.heard_at.push(device.heard_at.map(muster_schemas::Timestamp::micros));
        self.item.push(serde_json::to_string(&ListItem::of(id, device)).map_err(json)?);
        self.state.push(state);
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
