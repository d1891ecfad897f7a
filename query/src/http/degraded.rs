//! Adds a header to responses that may be stale, or while changes cannot be written.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::state::QueryState;

/// Name of the header: what this server cannot write, since when and why.
pub(super) const DEGRADED: HeaderName =
    HeaderName::from_static(muster_api_types::headers::DEGRADED);

/// Middleware: adds [`DEGRADED`] while a read model or the log cannot be written.
pub(super) async fn add_header(
    State(state): State<QueryState>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let text = describe(&state);
    if let Ok(value) = HeaderValue::from_str(&text)
        && !text.is_empty()
    {
        response.headers_mut().insert(DEGRADED, value);
    }
    response
}

/// Describes in one line what cannot be written; empty when everything can.
pub(super) fn describe(state: &QueryState) -> String {
    let mut parts = Vec::new();
    // Another process may append to the log, and report that it cannot.
    let failure = state.log().append_failure().or_else(|| state.append_reports.current());
    if let Some(failure) = failure {
        parts.push(format!(
            "the event log cannot be written since {}: {}; reads work, and devices keep their \
             events",
            failure.since, failure.cause
        ));
    }
    let mut failures: Vec<_> = state.read_models.failures().collect();
    failures.sort_by_key(|(_, failure)| failure.since);
    if let Some((_, first)) = failures.first() {
        let names: Vec<&str> = failures.iter().map(|(name, _)| *name).collect();
        parts.push(format!(
            "read models ({}) have not been updated since {}: {}; responses may be stale",
            names.join(", "),
            first.since,
            first.cause
        ));
    }
    parts.join("; ")
}
