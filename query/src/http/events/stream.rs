//! `GET /events/stream`: the log as it grows, as server-sent events.
//!
//! Nothing is kept for a client but its position and one small stretch of the log: a slow one is
//! served from the log at its own pace.

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
use muster_api::problem::{ReadProblems, describe};
use muster_api::{Problem, Query, Scope};
use muster_eventlog::ReadFilter;
use muster_schemas::{DeviceId, ProjectId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::types;
use super::view::{EventView, Include};
use crate::http::devices::resolve;
use crate::http::examples;
use crate::live_streams::LiveStream;
use crate::state::QueryState;

/// Events that are read at once.
const STRETCH: u32 = 256;
/// A quiet connection says this often that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What comes within this time comes together: one question to the log, not one a commit.
const GATHER: Duration = Duration::from_millis(50);
/// The wait after the log could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// The parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamEvents {
    /// Only positions after this one; from now on when left out. `Last-Event-ID` goes before.
    #[param(minimum = 0)]
    after: Option<u64>,
    /// Only these types, with commas. Those about tokens are for admins and auditors.
    #[serde(rename = "type")]
    #[param(example = "DeviceConnected,DeviceDisconnected")]
    kind: Option<String>,
    /// Only those about this device: its id or name.
    device: Option<String>,
    /// `record` adds the exact bytes.
    #[param(inline)]
    include: Option<Include>,
}

/// The log as it grows.
///
/// Server-sent events: `id` is the position, `event` the type, `data` the event as JSON. A client
/// that comes back with `Last-Event-ID` misses nothing. A comment comes every 15 s.
#[utoipa::path(
    get, path = "/api/v1/events/stream", tag = "events", security(("bearer" = [])),
    params(
        StreamEvents, ProjectParam,
        ("Last-Event-ID" = Option<u64>, Header, description = "The position that was seen last"),
    ),
    responses(
        (status = 200, description = "Events, for as long as the client listens",
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
    let kinds = types::wanted(query.kind.as_deref(), &scope.principal)?;
    let slot = state.streams.take(&scope.principal)?;
    let device = match &query.device {
        Some(text) => Some(resolve(&state, &scope.project, text).await?),
        None => None,
    };
    let after = match last_event_id(&headers)?.or(query.after) {
        Some(position) => position,
        None => {
            let head = state.log().head(&scope.project).await?;
            head.map_or(0, |head| head.position)
        }
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
    let sse = Sse::new(events(reader)).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // Proxies that gather answers would hold the events back.
    Ok(([("x-accel-buffering", "no")], sse))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    match text.parse::<u64>() {
        Ok(position) => Ok(Some(position)),
        Err(_) if text.is_empty() => Ok(None),
        Err(_) => Err(Problem::field(
            "Last-Event-ID",
            "is not a position: give back an `id` of this stream",
            Some(text.into()),
        )),
    }
}

/// Where a client stands.
struct Reader {
    state: QueryState,
    project: ProjectId,
    filter: ReadFilter,
    device: Option<DeviceId>,
    include: Option<Include>,
    /// Read from the log and not asked for yet; at most [`STRETCH`].
    ready: VecDeque<ServerSent>,
    _slot: LiveStream,
}

/// Asked for the next event only when the client has taken the one before.
fn events(reader: Reader) -> impl Stream<Item = Result<ServerSent, Infallible>> {
    futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    })
}

impl Reader {
    /// The next event; `None` when the stream ends.
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
                    tracing::debug!(error = %describe(&error), "a live stream waits for the log");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads the next stretch; false when there is none.
    async fn read(&mut self) -> Result<bool, muster_eventlog::StoreError> {
        let log = self.state.log();
        // Known before the events are read: up to here, nothing that fits is left out.
        let head = self.state.follower.head(&self.project);
        if head <= self.filter.after {
            return Ok(false);
        }
        self.filter.until = Some(head);
        let found = log.read(&self.project, &self.filter, STRETCH).await?;
        self.filter.after = match found.last() {
            Some(last) if found.len() == STRETCH as usize => last.position,
            _ => head,
        };
        let fits = |event: &&muster_eventlog::StoredEvent| {
            self.device.is_none() || event.stream.device() == self.device
        };
        self.ready = found
            .iter()
            .filter(fits)
            .map(|stored| {
                let view = EventView::new(stored, self.include);
                let data = serde_json::to_string(&view).unwrap_or_default();
                ServerSent::default().id(stored.position.to_string()).event(&stored.kind).data(data)
            })
            .collect();
        Ok(true)
    }

    /// Waits for the log to grow, or for the end of this process.
    async fn wait(&self) {
        tokio::select! {
            () = self.state.stop.cancelled() => {}
            _ = self.state.follower.wait_beyond(&self.project, self.filter.after) => {
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}
