//! Refusals of websockets that a browser opens.
//!
//! A page cannot read the response to a websocket request that was refused, so it gets a websocket
//! that is closed immediately: the code is 4000 and the HTTP status, the reason starts with the name
//! of the problem. Other clients, which send no `Origin`, and pages of other origins get the problem
//! document.

use axum::body::to_bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use muster_api_types::problems::ProblemDocument;

use super::sessions::{PROTOCOL, check_origin};

/// Maximum size of a problem document, in bytes.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;
/// Maximum length of the reason of a close frame, in bytes (RFC 6455 §5.5).
const MAX_REASON_BYTES: usize = 123;
/// Code of a refusal with the HTTP status 0: codes from 4000 on are for applications.
const BASE_CODE: u16 = 4000;

/// Middleware that refuses websockets of browsers in a way that pages can read.
pub(super) async fn close_with_reason(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_page = headers.contains_key(header::ORIGIN) && check_origin(headers).is_ok();
    if !is_page || !headers.contains_key(header::UPGRADE) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let mut own = parts.clone();
    let response = next.run(Request::from_parts(parts, body)).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    // A request that is not for a websocket keeps its response.
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut own, &()).await else {
        return response;
    };
    let body = to_bytes(response.into_body(), MAX_PROBLEM_BYTES).await.unwrap_or_default();
    let reason = reason(serde_json::from_slice(&body).ok());
    // A browser that requested subprotocols ends a handshake that selects none.
    upgrade.protocols([PROTOCOL]).on_upgrade(move |socket| close(socket, status, reason))
}

async fn close(mut socket: WebSocket, status: StatusCode, reason: String) {
    let frame = CloseFrame { code: BASE_CODE + status.as_u16(), reason: reason.into() };
    // The client may be disconnected already.
    let _ = socket.send(Message::Close(Some(frame))).await;
}

/// Returns the reason of a close frame: `NAME: DETAIL`, shortened.
fn reason(problem: Option<ProblemDocument>) -> String {
    let Some(problem) = problem else { return String::new() };
    let name = problem.kind.strip_prefix("/problems/").unwrap_or(&problem.kind);
    let mut reason = format!("{name}: {}", problem.detail);
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

#[cfg(test)]
mod tests {
    use muster_api::Problem;
    use muster_api::problem::Kind;

    use super::*;

    #[test]
    fn a_reason_starts_with_the_name_of_the_problem_and_fits_a_close_frame() {
        let long = Problem::new(Kind::DeviceOffline, "ü".repeat(200));
        let text = reason(Some(long.document()));
        assert!(text.starts_with("device-offline: ü") && text.len() <= MAX_REASON_BYTES, "{text}");
        assert_eq!(reason(None), "");
    }
}
