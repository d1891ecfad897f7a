//! Reads the window of a list of devices that a stream shows.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use muster_api::Problem;
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::filter::Filter;
use super::super::item::{COLUMNS, ListedDevice, Row};
use super::super::list::select;
use super::super::sort::{By, Sort, SortKey};
use super::super::view::Live;
use crate::device_windows::{ReadWindow, Stamp, Window};
use crate::state::{QueryState, sql_problem};

/// The window of a list.
#[derive(Clone, Debug)]
pub(super) struct WindowReader {
    pub(super) state: QueryState,
    pub(super) project: ProjectId,
    pub(super) filter: Filter,
    pub(super) sort: Sort,
    pub(super) offset: u32,
    pub(super) limit: u16,
}

impl ReadWindow for WindowReader {
    fn stamp(&self) -> Stamp {
        let position = self.state.read_models.devices.position(&self.project);
        (position, self.state.latest.update_count(&self.project))
    }

    async fn read(&self) -> Option<Window> {
        match self.window().await {
            Ok(window) => Some(window),
            Err(problem) => {
                tracing::debug!(
                    project = %self.project, problem = problem.detail(),
                    "failed to read the devices of a live stream; trying again"
                );
                None
            }
        }
    }
}

impl WindowReader {
    async fn window(&self) -> Result<Window, Problem> {
        let (state, project) = (&self.state, &self.project);
        let live = Live { latest: Some(&state.latest), project, now: SystemTime::now().into() };
        let position = state.read_models.devices.position(project);
        let mut filter = self.filter.clone();
        filter.evaluate_metrics(&state.latest, project);
        let without_fresh_value = filter.without_fresh_value(state, project).await?;
        let devices = match self.sort.by() {
            By::Name => self.by_column(&filter, "name").await?,
            By::Created => self.by_column(&filter, "created_position").await?,
            By::LastSeen => self.by_last_seen(&filter, &live).await?,
        };
        let item = |device: ListedDevice| {
            let item: serde_json::Result<Map<String, Value>> =
                serde_json::from_str(&device.json(&live)?);
            Ok((device.id(), item.map_err(|error| Problem::internal(&error))?))
        };
        Ok(Window {
            position,
            status_counts: self.status_counts(&filter).await?,
            without_fresh_value: without_fresh_value.into_iter().map(Into::into).collect(),
            items: devices.into_iter().map(item).collect::<Result<_, Problem>>()?,
        })
    }

    async fn status_counts(&self, filter: &Filter) -> Result<BTreeMap<String, u64>, Problem> {
        let mut query = select(&self.project, "status, count(*)");
        filter.push(&mut query);
        query.push(" GROUP BY status");
        let counts: Vec<(String, i64)> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        Ok(counts.into_iter().map(|(status, count)| (status, count.unsigned_abs())).collect())
    }

    async fn by_column(&self, filter: &Filter, column: &str) -> Result<Vec<ListedDevice>, Problem> {
        let order = if self.sort.is_descending() { "DESC" } else { "ASC" };
        let mut query = select(&self.project, COLUMNS);
        filter.push(&mut query);
        query.push(format!(" ORDER BY {column} {order}, device {order} LIMIT "));
        query.push_bind(i64::from(self.limit)).push(" OFFSET ").push_bind(i64::from(self.offset));
        let rows: Vec<Row> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        Ok(rows.into_iter().map(ListedDevice::from).collect())
    }

    /// Only memory has the time at which a device was last seen, so the ids are sorted here, and
    /// only the devices of the window are read.
    async fn by_last_seen(
        &self,
        filter: &Filter,
        live: &Live<'_>,
    ) -> Result<Vec<ListedDevice>, Problem> {
        let mut query = select(&self.project, "device, heard_at");
        filter.push(&mut query);
        let rows: Vec<(Uuid, Option<i64>)> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        let mut keys: Vec<SortKey> = rows
            .into_iter()
            .map(|(id, received_at)| {
                let id = DeviceId(id);
                let last_seen = live.last_seen(id, received_at.map(Timestamp));
                SortKey::of(self.sort, id, "", muster_schemas::Position::ZERO, last_seen)
            })
            .collect();
        keys.sort_unstable();
        if self.sort.is_descending() {
            keys.reverse();
        }
        let first = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let ids: Vec<Uuid> =
            keys.iter().skip(first).take(self.limit.into()).map(|key| key.device.0).collect();
        let mut query = select(&self.project, COLUMNS);
        query.push(" AND device = ANY(").push_bind(ids.clone()).push(")");
        let rows: Vec<Row> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        let mut found: HashMap<DeviceId, ListedDevice> =
            rows.into_iter().map(ListedDevice::from).map(|one| (one.id(), one)).collect();
        Ok(ids.into_iter().filter_map(|id| found.remove(&DeviceId(id))).collect())
    }
}
