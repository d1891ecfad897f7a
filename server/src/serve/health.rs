//! `/healthz` and `/readyz` of a process without the query role, which serves its own.

use std::borrow::Cow;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use muster_api::{Json, Problem};
use muster_api_types::server::Health;
use muster_eventlog::{EventLog, Failure};
use muster_schemas::ProjectId;

const OK: Health = Health { status: Cow::Borrowed("ok"), degraded: None };

/// Dependencies that a role cannot work without.
#[derive(Clone, Debug)]
pub(super) struct Dependencies {
    pub(super) log: EventLog,
    pub(super) nats: async_nats::Client,
}

/// Returns the two routes.
pub(super) fn router(dependencies: Dependencies) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(OK)))
        .route("/readyz", get(ready))
        .with_state(dependencies)
}

async fn ready(State(dependencies): State<Dependencies>) -> Result<Json<Health>, Problem> {
    dependencies.log.head(&ProjectId::default_project()).await?;
    if let Some(Failure { since, cause }) = dependencies.log.append_failure() {
        let detail = format!("the event log cannot be written since {since}: {cause}");
        return Err(Problem::unavailable(detail, 30));
    }
    match dependencies.nats.connection_state() {
        async_nats::connection::State::Connected => Ok(Json(OK)),
        _ => Err(Problem::unavailable("the broker is unavailable; reconnecting", 2)),
    }
}
