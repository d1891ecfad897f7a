//! `GET /log/head` and `GET /projections`: the end of the log, and the progress of its readers.

use axum::extract::State;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::ReadProblems;
use muster_api::{Json, Problem, Query, Scope};
use muster_api_types::events::LogHead;
use muster_api_types::server::Projection;
use muster_api_types::{Page, ProjectionPage};

use crate::state::QueryState;

/// Get the end of the log
///
/// The position of the newest event of the project, and the root of its Merkle tree. A client that
/// keeps both can later verify that events were only added to the log.
#[utoipa::path(
    get, path = "/api/v1/log/head", tag = "events", security(("bearer" = [])),
    params(ProjectParam),
    responses(
        (status = 200, description = "The end of the log", body = LogHead,
            example = json!({
                "project": "default",
                "position": 42,
                "recorded_at": "2026-11-23T08:00:00.000412Z",
                "root": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
            })),
        ReadProblems,
    )
)]
pub(crate) async fn get_log_head(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<LogHead>, Problem> {
    let project = scope.project;
    let head = state.log().head(&project).await?;
    let head =
        head.ok_or_else(|| Problem::not_found(format!("there is no project '{project}'")))?;
    Ok(Json(LogHead {
        project,
        position: head.position,
        recorded_at: head.recorded_at,
        root: head.root,
    }))
}

/// List the projections and their progress
///
/// A projection computes one read model from the log. A read shows the events up to the position
/// of its projection; one with a `failure` has stopped.
#[utoipa::path(
    get, path = "/api/v1/projections", tag = "server", security(("bearer" = [])),
    params(ProjectParam),
    responses(
        (status = 200, description = "All projections, in one page", body = ProjectionPage,
            example = json!({
                "items": [{"name": "devices_v5", "position": 42, "pending_event_count": 0, "failure": null}]
            })),
        ReadProblems,
    )
)]
pub(crate) async fn list_projections(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<Page<Projection>>, Problem> {
    let states = state.log().projection_states(Some(&scope.project)).await?;
    let items = states
        .into_iter()
        .map(|state| Projection {
            name: state.name,
            position: state.position,
            pending_event_count: state.lag,
            failure: state.failure,
        })
        .collect();
    Ok(Json(Page { items, next: None }))
}
