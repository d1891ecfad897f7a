//! Reads the bodies of requests completely before a handler responds.
//!
//! A handler refuses a request with an invalid token, path or parameter before it reads the body.
//! If the body is still in flight, HTTP/1.1 can only discard it by closing the connection, and the
//! client, which is still writing, gets a connection error instead of the response.

use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_api::Problem;
use muster_api::problem::Kind;

/// Maximum size of a body, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 256 * 1024;
/// Timeout of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads the body, then passes the request to the handler.
pub(super) async fn read_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => {
            let message = format!("the body is larger than {MAX_BODY_BYTES} bytes, or incomplete");
            Problem::new(Kind::TooLarge, message).into_response()
        }
        Err(_) => {
            let rule = format!("did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Problem::field("", rule, None).into_response()
        }
    }
}
