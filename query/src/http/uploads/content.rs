//! `GET /uploads/{operation}/{device}/content`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use muster_api::auth::RunOperations;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{MinPosition, PathParam, Problem, Query, Scope};
use muster_api_types::problems::ProblemDocument;
use muster_api_types::schema;
use muster_schemas::OperationId;

use super::list::find;
use super::stored::respond;
use crate::http::devices::resolve;
use crate::state::QueryState;

/// Get a stored file
///
/// The whole file is verified against the hash that the device has signed: the response with a
/// damaged file is aborted before its end. `Range` with one part is supported; a part that does not
/// extend to the end of the file is not verified.
#[utoipa::path(
    get, path = "/api/v1/uploads/{operation}/{device}/content", tag = "uploads",
    security(("bearer" = [])),
    params(
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The file", body = inline(schema::Bytes),
            content_type = "application/octet-stream", example = "2026-11-25 started\n"),
        (status = 206, description = "A part of the file", body = inline(schema::Bytes),
            content_type = "application/octet-stream", example = "started\n"),
        (status = 416, description = "The file does not have the requested part",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The file is not stored, or not yet",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "The file was erased, or a part of it is missing",
            body = ProblemDocument, content_type = "application/problem+json"),
        ReadProblems,
    )
)]
pub(crate) async fn get_upload_content(
    State(state): State<QueryState>,
    scope: Scope<RunOperations>,
    min_position: MinPosition,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
    Query(NoParams {}): Query<NoParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let device = resolve(&state, project, &device).await?;
    let found = find(&state, project, (operation, device)).await?;
    respond(&state, project, found, (&scope.principal).into(), &headers).await
}
