//! `GET /devices/stream`: a window of the list of devices, and its changes, as server-sent events.
//!
//! The state of a client is the window that it was sent last: a slow client gets the difference to
//! the newest one, however many there were in between. See docs/device-stream.md.

mod changes;
mod window;

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::Event as ServerSent;
use futures::Stream;
use muster_api::auth::ReadDevices;
use muster_api::params::ProjectParam;
use muster_api::problem::ReadProblems;
use muster_api::{Problem, Query, Scope};
use muster_api_types::device_stream::DeviceStreamMessage;
use muster_api_types::events::StreamEndReason;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::filter::Filter;
use super::sort::Sort;
use crate::device_windows::{SharedWindow, Window};
use crate::http::{examples, sse};
use crate::live_streams::LiveStream;
use crate::state::QueryState;
use changes::Fields;
use window::WindowReader;

/// Maximum number of devices in a window.
const MAX_LIMIT: u16 = 200;
/// Maximum number of devices before a window.
const MAX_OFFSET: u32 = 1_000_000;

/// Parameters of the request.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamDevices {
    /// Conditions, as in the list of devices.
    #[param(max_length = 8192, example = "env=prod and not offline")]
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
    /// Number of devices of the sorted list before the window.
    #[serde(default)]
    #[param(value_type = Option<u32>, maximum = 1_000_000, default = 0)]
    offset: u32,
    /// Maximum number of devices in the window.
    #[serde(default = "default_limit")]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200, default = 50)]
    limit: u16,
    /// A comma-separated list of the fields of `DeviceSummary` to send; default: all. The id is
    /// always sent.
    #[param(example = "name,status,metrics")]
    fields: Option<String>,
}

const fn default_limit() -> u16 {
    50
}

/// Stream a window of the list of devices and its changes
///
/// Server-sent events, each at most twice a second: first a `window` (`DeviceWindow`) with the
/// devices from `offset` on, the totals of the whole list and its numbers by status, then a
/// `change` (`DeviceChange`) with what differs. After a reconnect, the first message is a complete
/// `window` again. `id` is the position in the log, `retry` is 2 s, and a comment is sent every
/// 15 s. If the server ends the stream, the last event is `end`; its `data` has the `reason`:
/// `server_stopping` (reconnect) or `token_invalid`.
#[utoipa::path(
    get, path = "/api/v1/devices/stream", tag = "devices", security(("bearer" = [])),
    params(StreamDevices, ProjectParam),
    responses(
        (status = 200, description = "Messages, until the client disconnects",
            body = String, content_type = "text/event-stream",
            example = json!(examples::device_stream())),
        ReadProblems,
    )
)]
pub(crate) async fn stream_devices(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    Query(query): Query<StreamDevices>,
) -> Result<impl IntoResponse, Problem> {
    check("limit", query.limit.into(), 1, MAX_LIMIT.into())?;
    check("offset", query.offset, 0, MAX_OFFSET)?;
    let fields = Fields::parse(query.fields.as_deref())?;
    let filter =
        Filter::read(query.selector.as_deref(), query.status.as_deref(), query.search.as_deref())?;
    filter.reject_misspelt(&state, &scope.project).await?;
    let slot = state.streams.acquire(&scope.principal)?;
    let StreamDevices { selector, status, search, sort, offset, limit, .. } = query;
    let project = scope.project;
    let key = format!("{:?}", (&project, &selector, &status, &search, sort, offset, limit));
    let (windows, stop) = (state.device_windows.clone(), state.stop.clone());
    let shared = windows.open(key, WindowReader { state, project, filter, sort, offset, limit });
    let client = Client {
        newest: shared.subscribe(),
        _shared: shared,
        last: None,
        offset,
        fields,
        next: Next::Start,
        stop,
        _slot: slot,
    };
    Ok(sse::response(messages(client)))
}

fn check(name: &'static str, value: u32, min: u32, max: u32) -> Result<(), Problem> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Problem::parameter(name, format!("must be from {min} to {max}"), Some(value.into())))
}

/// The next message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The time after which it reconnects.
    Start,
    /// A window or a change.
    Change,
    /// None: the stream has ended.
    Nothing,
}

/// State of a client's stream.
struct Client {
    newest: watch::Receiver<Option<Arc<Window>>>,
    _shared: Arc<SharedWindow>,
    /// The window that the client has.
    last: Option<Arc<Window>>,
    offset: u32,
    fields: Fields,
    next: Next,
    stop: CancellationToken,
    _slot: LiveStream,
}

/// The stream is polled for the next message only when the client has received the previous one.
fn messages(client: Client) -> impl Stream<Item = Result<ServerSent, Infallible>> {
    futures::stream::unfold(client, |mut client| async move {
        let message = client.next().await?;
        Some((Ok(message), client))
    })
}

impl Client {
    /// Returns the next message; `None` when the stream ends.
    async fn next(&mut self) -> Option<ServerSent> {
        match self.next {
            Next::Start => {
                self.next = Next::Change;
                // A window that others have open is there already.
                self.newest.mark_changed();
                Some(sse::start())
            }
            Next::Change => Some(self.next_change().await),
            Next::Nothing => None,
        }
    }

    async fn next_change(&mut self) -> ServerSent {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = self.newest.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
            let newest = self.newest.borrow_and_update().clone();
            if let Some(message) = newest.and_then(|newest| self.message(newest)) {
                return message;
            }
        }
        self.next = Next::Nothing;
        sse::end(StreamEndReason::ServerStopping)
    }

    /// Returns what the client does not have of a window; `None` if it has all.
    fn message(&mut self, newest: Arc<Window>) -> Option<ServerSent> {
        let message = match &self.last {
            None => Some(changes::complete(&newest, self.offset, &self.fields)),
            Some(last) => changes::difference(last, &newest, &self.fields),
        };
        let id = newest.position.to_string();
        self.last = Some(newest);
        let message = message?;
        let name = match &message {
            DeviceStreamMessage::Window(_) => "window",
            DeviceStreamMessage::Change(_) => "change",
        };
        let data = serde_json::to_string(&message).unwrap_or_default();
        Some(ServerSent::default().id(id).event(name).data(data))
    }
}
