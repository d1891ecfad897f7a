//! Ends responses with the token that they were requested with: a middleware for all routes, so
//! that no handler has to check its token while it sends.
//!
//! A response whose length is known when its handler returns (usually JSON) is not watched; a read
//! that took long is checked before it is sent. Websockets have no response body: see
//! `command/src/channels/token.rs`.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::unfold;
use muster_api_types::events::{END_EVENT, StreamEnd, StreamEndReason};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Authenticator, Principal};
use crate::ApiState;
use crate::problem::{Kind, Problem};

/// Interval between checks of the token of a response.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of a check. The response waits for it, and continues when the log cannot be read: no
/// token can be revoked then either.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// The error with which a response ends.
const ENDED: &str = "the token of this request is no longer valid";

/// The token of a request, once an extractor has found it valid.
#[derive(Clone, Debug, Default)]
pub(super) struct Credential(Arc<OnceLock<CheckedToken>>);

#[derive(Clone, Debug)]
struct CheckedToken {
    text: String,
    principal: Principal,
    checked_at: Instant,
}

impl CheckedToken {
    /// Checks the token again.
    async fn has_ended(&mut self, auth: &Authenticator) -> bool {
        let found = timeout(CHECK_TIMEOUT, auth.authenticate(&self.text, None)).await;
        let has_ended = found.is_ok_and(|found| has_ended(&self.principal, &found));
        if has_ended {
            tracing::info!(
                token = %self.principal.token,
                "a response was ended because its token is no longer valid"
            );
        }
        self.checked_at = Instant::now();
        has_ended
    }
}

impl Credential {
    /// Sets the token; only the first call counts.
    pub(super) fn set(&self, text: String, principal: Principal) {
        let _ = self.0.set(CheckedToken { text, principal, checked_at: Instant::now() });
    }
}

/// Middleware: ends a response with an error when its token is revoked, expires, or gets another
/// role. A read whose token has ended before the response starts gets 401. A write does not: the
/// client has to know what it did.
pub async fn end_with_token(
    State(api): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let credential = Credential::default();
    request.extensions_mut().insert(credential.clone());
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let response = next.run(request).await;
    let Some(checked) = credential.0.get() else { return response };
    let mut checked = checked.clone();
    let is_due = checked.checked_at.elapsed() >= CHECK_INTERVAL;
    // A connection that was switched to another protocol watches its token itself.
    let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if is_read && is_due && !is_switched && checked.has_ended(&api.auth).await {
        return Problem::new(Kind::Unauthorized, ENDED).into_response();
    }
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let end = is_event_stream(&response).then(end_message);
    response.map(|body| {
        let body = WatchedBody { body: body.into_data_stream(), auth: api.auth, checked, end };
        Body::from_stream(unfold(Some(body), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Err(error) => Some((body.end.ok_or(error), None)),
            }
        }))
    })
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Returns the last message of a stream of events whose token has ended.
fn end_message() -> Bytes {
    let end = StreamEnd { reason: StreamEndReason::TokenInvalid };
    let data = serde_json::to_string(&end).unwrap_or_default();
    format!("event: {END_EVENT}\ndata: {data}\n\n").into()
}

/// A response body and the token with which it was requested.
struct WatchedBody {
    body: BodyDataStream,
    auth: Authenticator,
    checked: CheckedToken,
    /// Last message of a stream of events whose token has ended; other bodies end with an error.
    end: Option<Bytes>,
}

impl WatchedBody {
    /// Returns the next bytes; none are read while a check is due.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.checked.checked_at + CHECK_INTERVAL) => {
                    if self.checked.has_ended(&self.auth).await {
                        return Err(io::Error::other(ENDED));
                    }
                }
                bytes = self.body.next() => return bytes.transpose().map_err(io::Error::other),
            }
        }
    }
}

/// Whether the principal's open response must end. It continues when the token cannot be looked up.
fn has_ended(principal: &Principal, found: &Result<Principal, Problem>) -> bool {
    match found {
        Ok(found) => found != principal,
        Err(problem) => problem.kind() == Kind::Unauthorized,
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::Role;
    use muster_schemas::{ProjectId, TokenId};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_response_ends_when_its_token_is_rejected_or_has_another_role() {
        let principal = |role| Principal {
            token: TokenId(Uuid::nil()),
            role,
            project: Some(ProjectId::default_project()),
        };
        let operator = principal(Role::Operator);
        let unavailable = || Problem::unavailable("the database does not respond", 2);
        assert!(!has_ended(&operator, &Ok(operator.clone())));
        assert!(!has_ended(&operator, &Err(unavailable())));
        assert!(has_ended(&operator, &Ok(principal(Role::Viewer))));
        assert!(has_ended(&operator, &Err(Problem::new(Kind::Unauthorized, "revoked"))));
    }
}
