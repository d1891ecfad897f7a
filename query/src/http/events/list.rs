//! `GET /events`, `GET /events/{position}`, `GET /devices/{device}/events`.

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::ProjectParam;
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{
    Cursor, Json, Limit, MinPosition, PathParam, Problem, Query, Scope, position_header,
};
use muster_api_types::events::Event;
use muster_api_types::schema;
use muster_api_types::{EventPage, Page};
use muster_eventlog::{ReadFilter, StoredEvent};
use muster_schemas::{DeviceId, Position, ProjectId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::types;
use super::view::{Include, view};
use crate::http::devices::resolve;
use crate::http::examples;
use crate::state::{QueryState, sql_problem};
use crate::timeline::{self, Positions};

/// Maximum number of ranges of a device's timeline that are read for one page. A page may then have
/// fewer events than requested, and still a next page.
const MAX_RANGES_PER_PAGE: usize = 20;

/// The order of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// The oldest first.
    Asc,
    /// The newest first.
    #[default]
    Desc,
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListEvents {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Only these types, comma-separated. Types about tokens require the role of an admin or
    /// auditor.
    #[serde(rename = "type")]
    #[param(example = "DeviceConnected,DeviceDisconnected")]
    kind: Option<String>,
    /// Only events about this device: its id or name.
    device: Option<String>,
    /// Only events after this position.
    #[param(minimum = 0, value_type = Option<u64>)]
    after: Option<Position>,
    /// Only events up to this position.
    #[param(minimum = 0, value_type = Option<u64>)]
    until: Option<Position>,
    /// Order of the events; default: the newest first.
    #[serde(default)]
    #[param(inline, value_type = Option<Order>)]
    order: Order,
    /// `record` adds the exact bytes.
    #[param(inline)]
    include: Option<Include>,
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListDeviceEvents {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Only these types, comma-separated.
    #[serde(rename = "type")]
    #[param(example = "DeviceConnected,DeviceDisconnected")]
    kind: Option<String>,
    /// Only events after this position.
    #[param(minimum = 0, value_type = Option<u64>)]
    after: Option<Position>,
    /// Only events up to this position.
    #[param(minimum = 0, value_type = Option<u64>)]
    until: Option<Position>,
    /// Order of the events; default: the newest first.
    #[serde(default)]
    #[param(inline, value_type = Option<Order>)]
    order: Order,
    /// `record` adds the exact bytes.
    #[param(inline)]
    include: Option<Include>,
}

/// Parameters of the request.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetEvent {
    /// `record` adds the exact bytes.
    #[param(inline)]
    include: Option<Include>,
}

/// List the events of a project
///
/// The project's log in pages; with `device`, only the events about that device.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events", security(("bearer" = [])),
    params(ListEvents, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of events", body = EventPage,
            example = json!({"items": [examples::event()], "next": "NDE"})),
        ReadProblems,
    )
)]
pub(crate) async fn list_events(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    Query(query): Query<ListEvents>,
) -> Result<impl IntoResponse, Problem> {
    let kinds = types::requested_types(query.kind.as_deref(), &scope.principal)?;
    let span = LogRange::read(&query.cursor, query.after, query.until, query.order, query.limit)?;
    let project = &scope.project;
    let (events, next) = match &query.device {
        Some(device) => {
            min_position.wait(state.log(), &state.read_models.devices, project).await?;
            let timeline = &state.read_models.timeline;
            min_position.wait_for_all(state.log(), timeline, project, span.until).await?;
            let device = resolve(&state, project, device).await?;
            of_device(&state, project, device, &kinds, &span).await?
        }
        None => of_project(&state, project, kinds, &span).await?,
    };
    Ok(Json(show(project, &events, next, query.include)))
}

/// List the events of a device
///
/// The response includes all events that the log has when the request arrives. If the index of
/// devices' events is more than 5 s behind, the response is an error; use `until` to read the older
/// part.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/events", tag = "devices", security(("bearer" = [])),
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ListDeviceEvents, ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "A page of events", body = EventPage,
            headers(("Muster-Position" = u64, description = "The position that the response shows")),
            example = json!({"items": [examples::event()], "next": "NDE"})),
        ReadProblems,
    )
)]
pub(crate) async fn list_device_events(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam(device): PathParam<String>,
    Query(query): Query<ListDeviceEvents>,
) -> Result<impl IntoResponse, Problem> {
    let kinds = types::requested_types(query.kind.as_deref(), &scope.principal)?;
    let span = LogRange::read(&query.cursor, query.after, query.until, query.order, query.limit)?;
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.devices, project).await?;
    let timeline = &state.read_models.timeline;
    min_position.wait_for_all(state.log(), timeline, project, span.until).await?;
    let position = timeline.position(project);
    let device = resolve(&state, project, &device).await?;
    let (events, next) = of_device(&state, project, device, &kinds, &span).await?;
    let page = show(project, &events, next, query.include);
    Ok(([position_header(position)], Json(page)))
}

/// Get an event
///
/// An event at a position never changes; its content may have been erased, and is then absent.
/// Events about tokens require the role of an admin or auditor.
#[utoipa::path(
    get, path = "/api/v1/events/{position}", tag = "events", security(("bearer" = [])),
    params(
        ("position" = u64, Path, minimum = 1, description = "The event's position in the log", example = 42),
        GetEvent, ProjectParam,
    ),
    responses(
        (status = 200, description = "The event", body = Event,
            example = json!(examples::event())),
        ReadProblems,
    )
)]
pub(crate) async fn get_event(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    PathParam(position): PathParam<Position>,
    Query(query): Query<GetEvent>,
) -> Result<Json<Event>, Problem> {
    let events = state.log().read_positions(&scope.project, &[position]).await?;
    let visible = types::requested_types(None, &scope.principal)?;
    let event = events.first().filter(|event| visible.is_empty() || visible.contains(&event.kind));
    event.map(|event| Json(view(&scope.project, event, query.include))).ok_or_else(|| {
        Problem::not_found(format!(
            "there is no event at position {position} of project {} that this token may see",
            scope.project
        ))
    })
}

fn show(
    project: &ProjectId,
    events: &[StoredEvent],
    next: Option<Position>,
    include: Option<Include>,
) -> Page<Event> {
    Page {
        items: events.iter().map(|event| view(project, event, include)).collect(),
        next: next.map(|position| Cursor::encode(&position)),
    }
}

/// The largest position that PostgreSQL can represent.
const MAX_POSITION: Position = Position(i64::MAX.unsigned_abs());

/// A range of the log.
struct LogRange {
    after: Position,
    until: Position,
    order: Order,
    limit: usize,
}

impl LogRange {
    /// Parses the parameters; a cursor is the position at which the previous page ended.
    fn read(
        cursor: &Option<String>,
        after: Option<Position>,
        until: Option<Position>,
        order: Order,
        limit: Limit,
    ) -> Result<Self, Problem> {
        let mut span = Self {
            after: after.unwrap_or(Position::ZERO),
            until: until.unwrap_or(MAX_POSITION).min(MAX_POSITION),
            order,
            limit: usize::from(limit.get()),
        };
        if let Some(ended) = Cursor::decode::<Position>(cursor.as_deref())? {
            span.continue_after(ended);
        }
        Ok(span)
    }

    /// Restricts the range to what comes after a position, in this order.
    fn continue_after(&mut self, ended: Position) {
        match self.order {
            Order::Asc => self.after = self.after.max(ended),
            Order::Desc => self.until = self.until.min(ended.previous()),
        }
    }

    /// Returns the position after which the next page starts, if more events than the limit were
    /// found.
    fn truncate(&self, events: &mut Vec<StoredEvent>) -> Option<Position> {
        let more = events.len() > self.limit;
        events.truncate(self.limit);
        events.last().filter(|_| more).map(|event| event.position)
    }
}

async fn of_project(
    state: &QueryState,
    project: &ProjectId,
    kinds: Vec<String>,
    span: &LogRange,
) -> Result<(Vec<StoredEvent>, Option<Position>), Problem> {
    let limit = u32::try_from(span.limit + 1).unwrap_or(u32::MAX);
    let mut events = match span.order {
        Order::Asc => {
            let filter = ReadFilter { after: span.after, until: Some(span.until), kinds };
            state.log().read(project, &filter, limit).await?
        }
        Order::Desc => {
            let before = span.until.next();
            let log = state.log();
            let mut events = log.read_backwards(project, before, &kinds, limit).await?;
            events.retain(|event| event.position > span.after);
            events
        }
    };
    let next = span.truncate(&mut events);
    Ok((events, next))
}

async fn of_device(
    state: &QueryState,
    project: &ProjectId,
    device: DeviceId,
    kinds: &[String],
    span: &LogRange,
) -> Result<(Vec<StoredEvent>, Option<Position>), Problem> {
    let mut rest = LogRange { ..*span };
    let mut found: Vec<StoredEvent> = Vec::new();
    let limit = u32::try_from(span.limit + 1).unwrap_or(u32::MAX);
    for _ in 0..MAX_RANGES_PER_PAGE {
        let range = Positions {
            after: rest.after,
            until: rest.until,
            is_newest_first: rest.order == Order::Desc,
            limit,
        };
        let positions =
            timeline::positions(state.log(), project, device, &range).await.map_err(sql_problem)?;
        let Some(last) = positions.last() else {
            return Ok((found, None));
        };
        rest.continue_after(*last);
        let mut events = state.log().read_positions(project, &positions).await?;
        if rest.order == Order::Desc {
            events.reverse();
        }
        events.retain(|event| kinds.is_empty() || kinds.contains(&event.kind));
        found.append(&mut events);
        if found.len() > span.limit {
            let next = span.truncate(&mut found);
            return Ok((found, next));
        }
        if positions.len() < span.limit + 1 {
            return Ok((found, None));
        }
    }
    let reached = match rest.order {
        Order::Asc => rest.after,
        Order::Desc => rest.until.next(),
    };
    Ok((found, Some(reached)))
}
