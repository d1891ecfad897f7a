//! What all streams of server-sent events have in common.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use muster_api_types::events::{END_EVENT, StreamEnd, StreamEndReason};

/// Interval between keep-alives on an idle connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Time after which a client reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Returns a response with these messages.
pub(super) fn response(
    messages: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> impl IntoResponse {
    let sse = Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL));
    // Proxies that buffer responses would delay the messages.
    ([("x-accel-buffering", "no")], sse)
}

/// Returns the first message: the time after which a client reconnects.
pub(super) fn start() -> Event {
    Event::default().retry(RECONNECT_DELAY)
}

/// Returns the last message of a stream that the server ends.
pub(super) fn end(reason: StreamEndReason) -> Event {
    let data = serde_json::to_string(&StreamEnd { reason }).unwrap_or_default();
    Event::default().event(END_EVENT).data(data)
}
