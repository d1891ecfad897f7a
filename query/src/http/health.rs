//! `/healthz`: whether the process runs. `/readyz`: whether it can serve requests.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::State;
use muster_api::problem::OpenProblems;
use muster_api::{Json, Problem};
use muster_api_types::problems::ProblemDocument;
use muster_api_types::server::Health;
use muster_eventlog::projection::ProjectionState;

use super::degraded;
use crate::state::{QueryState, required_projections};

/// Maximum lag of a read model that is ready, in events.
const MAX_READY_LAG: u64 = 10_000;
/// Timeout of the query to PostgreSQL.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

const OK: Health = Health { status: Cow::Borrowed("ok"), degraded: None };

/// Check whether the process runs
///
/// Responds as long as the process accepts connections, also when the database is unavailable. It
/// suits liveness checks, and `/readyz` readiness checks.
#[utoipa::path(
    get, path = "/healthz", tag = "server", security(()),
    responses(
        (status = 200, description = "The process runs", body = Health,
            example = json!({"status": "ok"})),
        (status = 431, description = "The headers are too large", body = ProblemDocument,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_health() -> Json<Health> {
    Json(OK)
}

/// Check whether the server can serve requests
///
/// The database is reachable, and the read models run and are at most 10,000 events behind the log.
/// A server that cannot write (usually because of a full disk) still serves reads: it stays in
/// service with the status `degraded` and reports what cannot be written.
#[utoipa::path(
    get, path = "/readyz", tag = "server", security(()),
    responses(
        (status = 200, description = "The server can serve requests", body = Health,
            example = json!({"status": "ok"})),
        OpenProblems,
    )
)]
pub(crate) async fn get_readiness(
    State(state): State<QueryState>,
) -> Result<Json<Health>, Problem> {
    let required = required_projections();
    let worst = tokio::time::timeout(DATABASE_TIMEOUT, state.log().worst_projection(&required))
        .await
        .map_err(|_| Problem::unavailable("the database does not respond; try again", 2))??;
    match worst {
        // The endpoint is public, so the response has neither a project nor a failure's message.
        Some(ProjectionState { name, project, failure: Some(failure), .. }) => {
            tracing::warn!(
                projection = name,
                project,
                failure,
                "not ready: a projection has stopped"
            );
            Err(Problem::unavailable(
                format!("the read model {name} has stopped; see the server's log"),
                30,
            ))
        }
        Some(ProjectionState { name, project, lag, .. }) if lag > MAX_READY_LAG => {
            tracing::info!(projection = name, project, lag, "not ready: a projection is behind");
            Err(Problem::unavailable(format!("the read model {name} is catching up"), 2))
        }
        _ => Ok(Json(match degraded::describe(&state) {
            degraded if degraded.is_empty() => OK,
            degraded => Health { status: "degraded".into(), degraded: Some(degraded) },
        })),
    }
}
