//! `GET /events/stream`: new events of the log, as server-sent events.
//!
//! The state of a client is its position and one small range of the log: a slow client reads from
//! the log at its own pace.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event as ServerSent, KeepAlive, Sse};
use futures::Stream;
use muster_api::auth::ReadDevices;
use muster_api::params::ProjectParam;
use muster_api::problem::ReadProblems;
use muster_api::{Problem, Query, Scope};
use muster_eventlog::ReadFilter;
use muster_schemas::errors::error_chain;
use muster_schemas::{DeviceId, Position, ProjectId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::types;
use super::view::{Include, view};
use crate::http::devices::resolve;
use crate::http::examples;
use crate::live_streams::LiveStream;
use crate::state::QueryState;

/// Maximum number of events in one read.
const MAX_EVENTS_PER_READ: u32 = 256;
/// Interval between keep-alives on an idle connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Time for which new events are collected, so that the log is read once for several commits.
const COLLECT_TIME: Duration = Duration::from_millis(50);
/// Interval between retries when the log cannot be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Parameters of the request.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamEvents {
    /// Only events after this position; default: only new events. `Last-Event-ID` takes precedence.
    #[param(minimum = 0, value_type = Option<u64>)]
    after: Option<Position>,
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
}

/// The position at which a client continues; for the OpenAPI document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `last_event_id` reads")]
pub(crate) struct LastEventIdParam {
    /// The last position that the client received.
    #[param(rename = "Last-Event-ID", minimum = 0, value_type = u64, required = false)]
    last_event_id: Option<Position>,
}

/// Stream new events
///
/// Server-sent events: `id` is the position, `event` the type, `data` the event as JSON. A client
/// that reconnects with `Last-Event-ID` misses no event. A comment is sent every 15 s.
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
    let slot = state.streams.acquire(&scope.principal)?;
    let device = match &query.device {
        Some(text) => Some(resolve(&state, &scope.project, text).await?),
        None => None,
    };
    let after = match last_event_id(&headers)?.or(query.after) {
        Some(position) => position,
        None => state.log().newest_position(&scope.project).await?,
    };
    let reader = Reader {
        filter: ReadFilter { after, until: None, kinds },
        device,
        include: query.include,
        ready: VecDeque::new(),
        _slot: slot,
        project: scope.project,
        state,
    };
    let sse = Sse::new(events(reader)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL));
    // Proxies that buffer responses would delay the events.
    Ok(([("x-accel-buffering", "no")], sse))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    match text.parse::<Position>() {
        Ok(position) => Ok(Some(position)),
        Err(_) if text.is_empty() => Ok(None),
        Err(_) => Err(Problem::parameter(
            "Last-Event-ID",
            "is not a position: send an `id` of this stream",
            Some(text.into()),
        )),
    }
}

/// State of a client's stream.
struct Reader {
    state: QueryState,
    project: ProjectId,
    filter: ReadFilter,
    device: Option<DeviceId>,
    include: Option<Include>,
    /// Events that were read from the log and not sent yet; at most [`MAX_EVENTS_PER_READ`].
    ready: VecDeque<ServerSent>,
    _slot: LiveStream,
}

/// The stream is polled for the next event only when the client has received the previous one.
fn events(reader: Reader) -> impl Stream<Item = Result<ServerSent, Infallible>> {
    futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    })
}

impl Reader {
    /// Returns the next event; `None` when the stream ends.
    async fn next(&mut self) -> Option<ServerSent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.state.stop.is_cancelled() {
                return None;
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => self.wait().await,
                Err(error) => {
                    tracing::debug!(
                        error = %error_chain(&error),
                        "failed to read the log for a live stream; trying again"
                    );
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Reads the next range; false when there is none.
    async fn read(&mut self) -> Result<bool, muster_eventlog::StoreError> {
        let log = self.state.log();
        // Read before the events: up to this position, no matching event is missed.
        let head = self.state.follower.head(&self.project);
        if head <= self.filter.after {
            return Ok(false);
        }
        self.filter.until = Some(head);
        let found = log.read(&self.project, &self.filter, MAX_EVENTS_PER_READ).await?;
        self.filter.after = match found.last() {
            Some(last) if found.len() == MAX_EVENTS_PER_READ as usize => last.position,
            _ => head,
        };
        let fits = |event: &&muster_eventlog::StoredEvent| {
            self.device.is_none() || event.stream.device() == self.device
        };
        self.ready = found
            .iter()
            .filter(fits)
            .map(|stored| {
                let view = view(stored, self.include);
                let data = serde_json::to_string(&view).unwrap_or_default();
                ServerSent::default().id(stored.position.to_string()).event(&stored.kind).data(data)
            })
            .collect();
        Ok(true)
    }

    /// Waits until the log grows or this process stops.
    async fn wait(&self) {
        tokio::select! {
            () = self.state.stop.cancelled() => {}
            _ = self.state.follower.wait_beyond(&self.project, self.filter.after) => {
                tokio::time::sleep(COLLECT_TIME).await;
            }
        }
    }
}
