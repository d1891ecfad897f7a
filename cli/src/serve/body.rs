//! The bodies of requests: read whole before anybody answers.
//!
//! A request that is refused for its token, its path or its parameters is refused before its body was
//! asked for. If that is still on its way, HTTP/1.1 has only one way to get rid of it: the connection is
//! closed, and the client, which is still writing, sees a broken connection in place of the answer.

use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_api::Problem;
use muster_api::problem::Kind;

use super::door::MAX_BODY;

/// A body is waited for so long.
const PATIENCE: Duration = Duration::from_secs(15);

/// Reads the body, then lets the request go on.
pub(super) async fn gather(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => {
            let words = format!("the body is larger than {MAX_BODY} bytes, or broke off");
            Problem::new(Kind::TooLarge, words).into_response()
        }
        Err(_) => {
            let rule = format!("did not come within {} s", PATIENCE.as_secs());
            Problem::field("body", rule, None).into_response()
        }
    }
}
