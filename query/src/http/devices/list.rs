//! `GET /devices`.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::ProjectParam;
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Cursor, Limit, MinPosition, Principal, Problem, Query, Scope, position_header};
use muster_api_types::devices::DevicePage;
use muster_api_types::metrics::WithoutFreshValue;
use muster_schemas::{DeviceId, Position, ProjectId, Timestamp};
use serde::Deserialize;
use sqlx::{Postgres, QueryBuilder};
use utoipa::IntoParams;
use uuid::Uuid;

use super::at_position;
use super::filter::Filter;
use super::item::{COLUMNS, ListedDevice, PageEnd, Row, json, page_json};
use super::renames::names_at;
use super::sort::{By, PageStart, Sort, SortKey, page};
use super::view::Live;
use super::walk::{self, WalkCursor};
use crate::http::examples;
use crate::projections::devices::{Device, TABLE};
use crate::state::{QueryState, sql_problem};

const JSON: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListDevices {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page. All pages together contain every device that existed
    /// throughout exactly once, in the order at the time of the first page. In the order
    /// `last_seen_at`, a cursor is valid for an hour, and for the eight newest lists of a token.
    cursor: Option<String>,
    /// Conditions on labels (`env=prod`, `env!=prod`, `site in (a,b)`, `!retired`), on fields
    /// (`name=robot-*`, `status=online`, `online`, `offline`, `os=debian`, `arch`, `agent<1.4`,
    /// `hostname`, `id`) and on the newest metrics (`mem.available > 500Mi`,
    /// `disk[/data].used_percent > 90`), combined by `and` or a comma, `or`, `not` and parentheses. A
    /// label whose key is the name of a field is `label.KEY`. A device without a fresh value of a
    /// metric that decides is not in the list: `without_fresh_value` counts such devices.
    #[param(
        max_length = 8192,
        example = "env=prod and not (name=robot-* or mem.available < 500Mi)"
    )]
    selector: Option<String>,
    /// A comma-separated list of `registered`, `pending`, `online`, `offline`, `revoked`,
    /// `deleted`; default: all except `deleted`.
    #[param(
        example = "online",
        pattern = "^(registered|pending|online|offline|revoked|deleted)(,(registered|pending|online|offline|revoked|deleted))*$"
    )]
    status: Option<String>,
    /// Part of the name, the hostname, or a label as `key=value`.
    #[param(max_length = 200, example = "robot")]
    search: Option<String>,
    /// Sort order; `-` for descending.
    #[serde(default)]
    #[param(inline, value_type = Option<Sort>)]
    sort: Sort,
    /// State at this position of the log; not with `at`.
    #[param(minimum = 0, value_type = Option<u64>)]
    position: Option<Position>,
    /// State at this time; not with `position`.
    #[param(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// List the devices of a project
///
/// The current state, or the state at a position or time: then without `metrics`, and with a
/// `last_seen_at` that includes only what is in the log.
#[utoipa::path(
    get, path = "/api/v1/devices", tag = "devices", security(("bearer" = [])),
    params(ListDevices, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of devices", body = DevicePage,
            headers(("Muster-Position" = u64, description = "The position that the response shows")),
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
    let start = PageStart::read(query.cursor.as_deref(), query.sort)?;
    let foreign = || Cursor::foreign(query.cursor.as_deref().unwrap_or_default());
    let moment = at_position::requested_position(&state, project, query.position, query.at).await?;
    let limit = usize::from(query.limit.get());
    let latest = moment.is_none().then_some(&state.latest);
    let live = Live { latest, project, now: std::time::SystemTime::now().into() };
    let mut without_fresh_value = Vec::new();
    filter.reject_misspelt(&state, project).await?;
    let (position, (items, next)) = if let Some(position) = moment {
        filter.reject_metrics()?;
        let after = match start {
            None => None,
            Some(PageStart::After(key)) => Some(SortKey { position: None, ..key }),
            Some(PageStart::Walk(_)) => return Err(foreign()),
        };
        let devices = at_position::devices(&state, project, position).await?;
        let placed = devices
            .iter()
            .filter(|(id, device)| filter.matches(**id, device))
            .map(|(id, device)| (sort_key(&live, query.sort, *id, device), device.clone()))
            .collect();
        let (found, next) = page(placed, query.sort, after.as_ref(), limit);
        let items = found.into_iter().map(|(key, device)| json(&live.summary(key.device, device)));
        (position, (items.collect::<Result<Vec<_>, _>>()?, next))
    } else {
        let progress = &state.read_models.devices;
        min_position.wait(state.log(), progress, project).await?;
        let position = progress.position(project);
        filter.evaluate_metrics(&state.latest, project);
        without_fresh_value = filter.without_fresh_value(&state, project).await?;
        let list = List {
            state: &state,
            live: &live,
            filter: &filter,
            sort: query.sort,
            limit,
            owner: &scope.principal,
        };
        let found = match (query.sort.by(), start) {
            (By::LastSeen, None) => list.first_by_last_seen().await?,
            (By::LastSeen, Some(PageStart::Walk(walk))) => list.by_walk(walk).await?,
            (By::Name, None) => list.by_name(None, position).await?,
            (By::Name, Some(PageStart::After(after))) => {
                list.by_name(Some(after), position).await?
            }
            (By::Created, None) => list.by_column(None, None, &BTreeMap::new()).await?,
            (By::Created, Some(PageStart::After(after))) => {
                list.by_column(Some(&after), None, &BTreeMap::new()).await?
            }
            (By::LastSeen, Some(PageStart::After(_)))
            | (By::Name | By::Created, Some(PageStart::Walk(_))) => return Err(foreign()),
        };
        let (found, next) = found;
        let items = found.iter().map(|(_, device)| device.json(&live));
        (position, (items.collect::<Result<Vec<_>, _>>()?, next))
    };
    let without_fresh_value: Vec<WithoutFreshValue> =
        without_fresh_value.into_iter().map(Into::into).collect();
    let body = page_json(&items, &PageEnd { next, without_fresh_value })?;
    Ok(([position_header(position), JSON], body))
}

fn sort_key(live: &Live<'_>, sort: Sort, id: DeviceId, device: &Device) -> SortKey {
    let name = device.name.as_ref().map_or("", |name| name.as_str());
    let last_seen = live.last_seen(id, device.heard_at);
    SortKey::of(sort, id, name, device.created_position, last_seen)
}

type ReadPage = (Vec<(SortKey, ListedDevice)>, Option<String>);

/// A page of the current state.
struct List<'a> {
    state: &'a QueryState,
    live: &'a Live<'a>,
    filter: &'a Filter,
    sort: Sort,
    limit: usize,
    /// The principal that lists.
    owner: &'a Principal,
}

/// Maximum number of reads of a page, which is read again when devices were renamed meanwhile.
const MAX_ATTEMPTS: usize = 10;

impl List<'_> {
    /// Returns a page sorted by the names at the start of the walk: at `position`, unless the
    /// cursor has another one.
    async fn by_name(
        &self,
        after: Option<SortKey>,
        position: Position,
    ) -> Result<ReadPage, Problem> {
        let position = after.as_ref().and_then(|after| after.position).unwrap_or(position);
        let after = after.map(|after| SortKey { position: Some(position), ..after });
        let names = || names_at(self.state.log(), self.live.project, position);
        let mut renamed = match &after {
            Some(_) => names().await?,
            None => BTreeMap::new(),
        };
        for _ in 0..MAX_ATTEMPTS {
            let found = self.by_column(after.as_ref(), Some(position), &renamed).await?;
            // The page may include a rename that is not in `renamed`.
            let now = names().await?;
            if now == renamed {
                return Ok(found);
            }
            renamed = now;
        }
        Err(Problem::unavailable("devices are being renamed faster than they can be listed", 5))
    }

    /// Returns a page that PostgreSQL sorts. The `renamed` devices are sorted by the given names.
    async fn by_column(
        &self,
        after: Option<&SortKey>,
        position: Option<Position>,
        renamed: &BTreeMap<DeviceId, String>,
    ) -> Result<ReadPage, Problem> {
        let column = match self.sort.by() {
            By::Name => "name",
            By::LastSeen | By::Created => "created_position",
        };
        let ids: Vec<Uuid> = renamed.keys().map(|device| device.0).collect();
        let mut query = self.select(COLUMNS);
        let descending = self.sort.is_descending();
        if !ids.is_empty() {
            query.push(" AND NOT device = ANY(").push_bind(ids.clone()).push(")");
        }
        if let Some(after) = after {
            query.push(format!(" AND ({column}, device) {} (", if descending { '<' } else { '>' }));
            match self.sort.by() {
                By::Name => drop(query.push_bind(after.name.clone())),
                By::LastSeen | By::Created => drop(query.push_bind(after.number)),
            }
            query.push(", ").push_bind(after.device.0).push(")");
        }
        let order = if descending { "DESC" } else { "ASC" };
        // One additional row shows whether there is a next page.
        let limit = i64::try_from(self.limit + 1).unwrap_or(i64::MAX);
        query.push(format!(" ORDER BY {column} {order}, device {order} LIMIT ")).push_bind(limit);
        let mut rows = self.rows(query).await?;
        if !ids.is_empty() {
            let mut query = self.select(COLUMNS);
            query.push(" AND device = ANY(").push_bind(ids).push(")");
            rows.extend(self.rows(query).await?);
        }
        let placed = rows.into_iter().map(|device| {
            let mut key = device.sort_key(self.live, self.sort);
            if let Some(name) = renamed.get(&device.id()) {
                key.name.clone_from(name);
            }
            (SortKey { position, ..key }, device)
        });
        Ok(page(placed.collect(), self.sort, after, self.limit))
    }

    /// Returns the first page by `last_seen_at`. Only memory has the time at which a device was last
    /// seen, so the ids are sorted here, and only the page's devices are read. The time changes
    /// while a client reads pages, so the order is stored for the following ones.
    async fn first_by_last_seen(&self) -> Result<ReadPage, Problem> {
        self.state.walk_rate.check(self.owner.token)?;
        let mut query = self.select("device, heard_at");
        let rows: Vec<(Uuid, Option<i64>)> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        let placed = rows
            .into_iter()
            .map(|(id, received_at)| {
                let id = DeviceId(id);
                let last_seen = self.live.last_seen(id, received_at.map(Timestamp));
                (SortKey::of(self.sort, id, "", Position::ZERO, last_seen), ())
            })
            .collect();
        let (places, _) = page(placed, self.sort, None, usize::MAX);
        let order: Vec<DeviceId> = places.into_iter().map(|(key, ())| key.device).collect();
        let first = &order[..order.len().min(self.limit)];
        let items = self.by_ids(first).await?;
        if order.len() <= self.limit {
            return Ok((items, None));
        }
        self.state.walk_rate.start(self.owner.token)?;
        let (sql, project) = (self.state.sql(), self.live.project);
        let walk = walk::start(sql, project, &self.owner.actor(), &order, self.limit).await?;
        Ok((items, Some(PageStart::Walk(walk).cursor(self.sort))))
    }

    /// Returns a later page of a stored order.
    async fn by_walk(&self, walk: WalkCursor) -> Result<ReadPage, Problem> {
        let found = walk.page(self.state.sql(), self.live.project, self.limit).await?;
        let Some((devices, next)) = found else {
            let rule = "has expired: list again from the first page";
            return Err(Problem::parameter("cursor", rule, None));
        };
        let next = next.map(|next| PageStart::Walk(next).cursor(self.sort));
        Ok((self.by_ids(&devices).await?, next))
    }

    /// Returns these devices in this order, without those that do not match the filter.
    async fn by_ids(&self, devices: &[DeviceId]) -> Result<Vec<(SortKey, ListedDevice)>, Problem> {
        let ids: Vec<Uuid> = devices.iter().map(|device| device.0).collect();
        let mut query = self.select(COLUMNS);
        query.push(" AND device = ANY(").push_bind(ids).push(")");
        let rows = self.rows(query).await?;
        let mut found: HashMap<DeviceId, ListedDevice> =
            rows.into_iter().map(|device| (device.id(), device)).collect();
        Ok(devices
            .iter()
            .filter_map(|id| {
                let device = found.remove(id)?;
                Some((device.sort_key(self.live, self.sort), device))
            })
            .collect())
    }

    fn select(&self, columns: &str) -> QueryBuilder<Postgres> {
        let mut query = select(self.live.project, columns);
        self.filter.push(&mut query);
        query
    }

    async fn rows(&self, mut query: QueryBuilder<Postgres>) -> Result<Vec<ListedDevice>, Problem> {
        let rows: Vec<Row> =
            query.build_query_as().fetch_all(self.state.sql()).await.map_err(sql_problem)?;
        Ok(rows.into_iter().map(ListedDevice::from).collect())
    }
}

pub(super) fn select(project: &ProjectId, columns: &str) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!("SELECT {columns} FROM {TABLE} WHERE project = "));
    query.push_bind(project.as_str().to_owned());
    query
}
