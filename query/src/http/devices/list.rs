//! `GET /devices`.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::ProjectParam;
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, Page, Problem, Query, Scope, position_header};
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use serde::Deserialize;
use sqlx::{Postgres, QueryBuilder};
use utoipa::IntoParams;
use uuid::Uuid;

use super::filter::Filter;
use super::order::{By, Place, Sort, page};
use super::past;
use super::view::{DeviceSummary, Live};
use crate::http::examples;
use crate::projections::devices::{Device, TABLE};
use crate::state::{QueryState, sql_problem};

/// The parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListDevices {
    /// Items on a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// Labels that must fit: `env=prod,site in (a,b),!retired`; `name`, `id` and `status` are the
    /// device's own. `online` or `!online`; metrics by their newest value: `mem.available>500Mi`,
    /// `battery.percent<20`.
    #[param(example = "env=prod,site in (a,b),!retired")]
    selector: Option<String>,
    /// `registered`, `pending`, `online`, `offline`, `revoked`, `deleted`, more than one with commas; all but `deleted`
    /// when left out.
    #[param(example = "online")]
    status: Option<String>,
    /// A part of the name, the hostname, or a label as `key=value`.
    #[param(max_length = 200, example = "robot")]
    search: Option<String>,
    /// The order; `-` for descending.
    #[serde(default)]
    #[param(inline, value_type = Option<Sort>)]
    sort: Sort,
    /// As they were at this position of the log; not with `at`.
    #[param(minimum = 0)]
    position: Option<u64>,
    /// As they were at this time; not with `position`.
    #[param(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// Devices.
///
/// With filters, sorted, in pages; now, or as they were at a position or a time: then without
/// `metrics`, and `last_seen` is what the log alone knows.
#[utoipa::path(
    get, path = "/api/v1/devices", tag = "devices", security(("bearer" = [])),
    params(ListDevices, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of devices", body = Page<DeviceSummary>,
            headers(("Muster-Position" = u64, description = "The position that this answer shows")),
            example = json!({"items": [examples::device_summary()], "next": "WyJuYW1lIix7Im4iOiJhIn1d"})),
        ReadProblems,
    )
)]
pub(crate) async fn list_devices(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    Query(query): Query<ListDevices>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    let mut filter =
        Filter::read(query.selector.as_deref(), query.status.as_deref(), query.search.as_deref())?;
    let after = Place::read(query.cursor.as_deref(), query.sort)?;
    let moment = past::moment(&state, project, query.position, query.at).await?;
    let limit = usize::from(query.limit.get());
    let live = Live { latest: moment.is_none().then_some(&state.latest), project };
    let (position, (items, next)) = if let Some(position) = moment {
        filter.check_past()?;
        let devices = past::devices(&state, project, position).await?;
        let placed = devices
            .iter()
            .filter(|(id, device)| filter.matches(**id, device))
            .map(|(id, device)| (place(&live, query.sort, *id, device), device.clone()))
            .collect();
        (position, page(placed, query.sort, after.as_ref(), limit))
    } else {
        let progress = &state.read_models.devices;
        min_position.wait(state.log(), progress, project).await?;
        let position = progress.position(project);
        filter.ask_metrics(&state.latest, project);
        let list = List {
            state: &state,
            live: &live,
            filter: &filter,
            sort: query.sort,
            after: after.as_ref(),
            limit,
        };
        let found = match query.sort.by() {
            By::LastSeen => list.by_last_seen().await?,
            By::Name => list.by_column("name").await?,
            By::Created => list.by_column("created_position").await?,
        };
        (position, found)
    };
    let items =
        items.into_iter().map(|(place, device)| live.summary(place.device, device)).collect();
    Ok(([position_header(position)], Json(Page { items, next })))
}

fn place(live: &Live<'_>, sort: Sort, id: DeviceId, device: &Device) -> Place {
    let name = device.name.as_ref().map_or("", |name| name.as_str());
    let last_seen = live.last_seen(id, device.heard_at);
    Place::of(sort, id, name, device.created_position, last_seen)
}

type Found = (Vec<(Place, Device)>, Option<String>);

/// A page of the present.
struct List<'a> {
    state: &'a QueryState,
    live: &'a Live<'a>,
    filter: &'a Filter,
    sort: Sort,
    after: Option<&'a Place>,
    limit: usize,
}

impl List<'_> {
    /// PostgreSQL sorts.
    async fn by_column(&self, column: &'static str) -> Result<Found, Problem> {
        let mut query = self.select("device, state");
        let descending = self.sort.is_descending();
        if let Some(after) = self.after {
            query.push(format!(" AND ({column}, device) {} (", if descending { '<' } else { '>' }));
            match self.sort.by() {
                By::Name => drop(query.push_bind(after.name.clone())),
                By::LastSeen | By::Created => drop(query.push_bind(after.number)),
            }
            query.push(", ").push_bind(after.device.0).push(")");
        }
        let order = if descending { "DESC" } else { "ASC" };
        // One more than the page holds tells whether there is a next one.
        let limit = i64::try_from(self.limit + 1).unwrap_or(i64::MAX);
        query.push(format!(" ORDER BY {column} {order}, device {order} LIMIT ")).push_bind(limit);
        let rows = self.rows(query).await?;
        let placed = rows
            .into_iter()
            .map(|(id, device)| (place(self.live, self.sort, id, &device), device))
            .collect();
        Ok(page(placed, self.sort, None, self.limit))
    }

    /// When a device was last seen is known in memory alone, so the ids are sorted here, and only
    /// the page's devices are read.
    async fn by_last_seen(&self) -> Result<Found, Problem> {
        let mut query = self.select("device, heard_at");
        let rows: Vec<(Uuid, Option<i64>)> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        let placed = rows
            .into_iter()
            .map(|(id, heard_at)| {
                let id = DeviceId(id);
                let last_seen = self.live.last_seen(id, heard_at.map(Timestamp));
                (Place::of(self.sort, id, "", 0, last_seen), ())
            })
            .collect();
        let (places, next) = page(placed, self.sort, self.after, self.limit);
        let ids: Vec<Uuid> = places.iter().map(|(place, ())| place.device.0).collect();
        let mut query = select(self.live.project, "device, state");
        query.push(" AND device = ANY(").push_bind(ids).push(")");
        let mut devices: HashMap<DeviceId, Device> = self.rows(query).await?.into_iter().collect();
        let items = places
            .into_iter()
            .filter_map(|(place, ())| {
                let device = devices.remove(&place.device)?;
                Some((place, device))
            })
            .collect();
        Ok((items, next))
    }

    fn select(&self, columns: &str) -> QueryBuilder<Postgres> {
        let mut query = select(self.live.project, columns);
        self.filter.push(&mut query);
        query
    }

    async fn rows(
        &self,
        mut query: QueryBuilder<Postgres>,
    ) -> Result<Vec<(DeviceId, Device)>, Problem> {
        let rows: Vec<(Uuid, String)> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        rows.into_iter()
            .map(|(id, text)| {
                let device = serde_json::from_str(&text);
                Ok((DeviceId(id), device.map_err(|error| Problem::internal(&error))?))
            })
            .collect()
    }
}

fn select(project: &ProjectId, columns: &str) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!("SELECT {columns} FROM {TABLE} WHERE project = "));
    query.push_bind(project.as_str().to_owned());
    query
}
