//! `GET /events/stream`: new events of the log, as server-sent events.
//!
//! The state of a client is its position in each project and one small range of a log: a slow client
//! reads from the log at its own pace.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::ProjectParam;
use muster_api::problem::{Kind, ReadProblems};
use muster_api::{Principal, Problem, Query, Scope};
use muster_schemas::{Position, ProjectId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::reader::{Form, Reader, events};
use super::resume::{Positions, Projects};
use super::types;
use super::view::Include;
use crate::http::devices::resolve;
use crate::http::{examples, sse};
use crate::state::QueryState;

/// Parameters of the request.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamEvents {
    /// Only events after this position; default: only new events. `Last-Event-ID` takes precedence.
    /// Not with `all_projects`.
    #[param(minimum = 0, value_type = Option<u64>)]
    after: Option<Position>,
    /// Events of all projects, also of those that are created meanwhile. Requires a server-wide
    /// token.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    all_projects: bool,
    /// Only these types, comma-separated. Types about tokens require the role of an admin or
    /// auditor.
    #[serde(rename = "type")]
    #[param(example = "DeviceConnected,DeviceDisconnected")]
    kind: Option<String>,
    /// Only events about this device: its id or name.
    device: Option<String>,
    /// `record` adds the exact bytes.
    #[param(inline)]
    include: Option<Include>,
    /// Form of the events; default: `Event` of this document.
    #[param(inline)]
    format: Option<Format>,
}

/// Form of the events of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// CloudEvents 1.0.
    CloudEvents,
}

/// The position at which a client continues; for the OpenAPI document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `last_event_id` reads")]
pub(crate) struct LastEventIdParam {
    /// The last `id` that the client received.
    #[param(rename = "Last-Event-ID", value_type = String, required = false, example = "42")]
    last_event_id: Option<String>,
}

/// Stream new events
///
/// Server-sent events: `id` is the position, `event` the type, `data` the event as JSON. A client
/// that reconnects with `Last-Event-ID` misses no event and receives none twice. With
/// `all_projects`, the `id` has the positions of all projects; on a server with more than 20
/// projects, a client that reconnects may receive some events again, with the same `project` and
/// `position`. `retry` is 2 s, and a comment is sent every 15 s. If the server ends the stream, the
/// last event is `end`; its `data` has the `reason`: `server_stopping` (reconnect) or
/// `token_invalid` (the token was revoked or has expired).
#[utoipa::path(
    get, path = "/api/v1/events/stream", tag = "events", security(("bearer" = [])),
    params(
        StreamEvents, ProjectParam, LastEventIdParam,
    ),
    responses(
        (status = 200, description = "Events, until the client disconnects",
            body = String, content_type = "text/event-stream",
            example = json!(examples::server_sent_event())),
        ReadProblems,
    )
)]
pub(crate) async fn stream_events(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    headers: HeaderMap,
    Query(query): Query<StreamEvents>,
) -> Result<impl IntoResponse, Problem> {
    let kinds = types::requested_types(query.kind.as_deref(), &scope.principal)?;
    let projects = match query.all_projects {
        true => all_projects(&scope.principal, &query)?,
        false => Projects::One(scope.project.clone()),
    };
    let slot = state.streams.acquire(&scope.principal)?;
    let device = match &query.device {
        Some(text) => Some(resolve(&state, &scope.project, text).await?),
        None => None,
    };
    let positions = start(&state, &projects, last_event_id(&headers)?, query.after).await?;
    let form = match (query.format, query.include) {
        (Some(Format::CloudEvents), None) => Form::CloudEvents,
        (Some(Format::CloudEvents), Some(_)) => {
            let rule = "adds nothing to CloudEvents: not with format";
            return Err(Problem::parameter("include", rule, None));
        }
        (None, include) => Form::Plain(include),
    };
    let reader = Reader::new(state, projects, positions, kinds, device, form, slot);
    Ok(sse::response(events(reader)))
}

fn all_projects(principal: &Principal, query: &StreamEvents) -> Result<Projects, Problem> {
    principal.require_server_wide()?;
    let refused = [("after", query.after.is_some()), ("device", query.device.is_some())];
    match refused.into_iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => {
            Err(Problem::parameter(name, "is for one project: not with all_projects", None))
        }
        None => Ok(Projects::All),
    }
}

/// Returns the positions after which a stream starts.
async fn start(
    state: &QueryState,
    projects: &Projects,
    last_event_id: Option<String>,
    after: Option<Position>,
) -> Result<Positions, Problem> {
    let requested = match (last_event_id, after, projects) {
        (Some(id), ..) => Some(Positions::parse(projects, &id).ok_or_else(|| {
            let rule = "is not an `id` of this stream";
            Problem::header("Last-Event-ID", rule, Some(id.into()))
        })?),
        (None, Some(after), Projects::One(project)) => {
            Some(Positions([(project.clone(), after)].into()))
        }
        _ => None,
    };
    let Some(requested) = requested else {
        return Ok(match projects {
            Projects::One(project) => {
                let newest = state.log().newest_position(project).await?;
                Positions([(project.clone(), newest)].into())
            }
            Projects::All => Positions(state.log().heads().await?),
        });
    };
    for (project, position) in &requested.0 {
        check_in_log(state, project, *position).await?;
    }
    Ok(requested)
}

/// Refuses a position beyond the end of a log: after a restore of an older backup, the events that
/// follow would be others.
async fn check_in_log(
    state: &QueryState,
    project: &ProjectId,
    position: Position,
) -> Result<(), Problem> {
    // The cached head is never beyond the end.
    if position <= state.follower.head(project) {
        return Ok(());
    }
    let newest = state.log().newest_position(project).await?;
    if position <= newest {
        return Ok(());
    }
    let detail = format!(
        "position {position} is beyond the end of the log of project {project}, which is {newest}; \
         was an older backup restored? Read the current state again, and start without a position"
    );
    Err(Problem::new(Kind::PositionNotInLog, detail))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Problem::header("Last-Event-ID", "is not text", None)),
    }
}
