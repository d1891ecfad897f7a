//! Routes of dead letters: retry them.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use muster_api::auth::{Administer, ServerWide};
use muster_api::params::NoParams;
use muster_api::problem::WriteProblems;
use muster_api::{PathParam, Problem, Query};
use muster_api_types::dead_letters::{DeadLetter, DeadLetterRetried};

use super::state::CommandState;

/// Retry a dead letter
///
/// Publishes the message again, unchanged. If the cause still exists, the dead letter's count
/// increases.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/{id}/retry", tag = "server",
    params(("id" = i64, Path, description = "The dead letter's number", minimum = 1)),
    responses((status = 200, description = "The dead letter", body = DeadLetter), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn retry_dead_letter(
    State(state): State<CommandState>,
    _: ServerWide<Administer>,
    PathParam(id): PathParam<i64>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    state.service.dead_letters.retry(id).await?;
    let location = format!("/api/v1/dead-letters/{id}");
    Ok(([(header::LOCATION, location)], axum::Json(DeadLetterRetried { id })))
}
