//! Routes of projects. Server-wide tokens create them; a project's own admins may rename and
//! archive it, and set the retention of its metrics.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use muster_api::auth::{Administer, Allowed, Principal};
use muster_api::etag::IfMatchParam;
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::NoParams;
use muster_api::problem::{Kind, WriteProblems};
use muster_api::{IdempotencyKey, IfMatch, Json, PathParam, Problem, Query};
use muster_schemas::names::ProjectTitle;
use muster_schemas::{ProjectId, Retention};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::state::CommandState;
use super::write::{WriteResult, headers, request};

/// A request to create a project.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "plant-7", "title": "Plant 7", "retention": "90d"}))]
pub(super) struct CreateProject {
    /// Id of the project, permanent: 1 to 40 characters of a-z, 0-9 and -; it starts with a-z and
    /// does not end with -.
    id: ProjectId,
    /// Display name of the project; default: the id.
    #[serde(default)]
    title: Option<ProjectTitle>,
    /// Retention of the project's metrics; default: `default`.
    #[serde(default)]
    retention: Option<Retention>,
}

/// A created project.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"id": "plant-7", "version": 1, "position": 42}))]
pub(super) struct ProjectMade {
    /// Id of the project.
    id: ProjectId,
    #[serde(flatten)]
    result: WriteResult,
}

/// A request to change a project; fields that are left out are unchanged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"title": "Plant 7, north", "retention": "30d"}))]
pub(super) struct ChangeProject {
    /// New display name of the project.
    #[serde(default)]
    title: Option<ProjectTitle>,
    /// Whether the project is archived. An archived project is read-only and accepts no devices.
    #[serde(default)]
    archived: Option<bool>,
    /// Retention of the project's metrics: `30d`, `2w`, or `default`. Points from before the
    /// project's first own retention stay in the bucket that all projects share; a later change of
    /// the number of days applies to all points since then.
    #[serde(default)]
    retention: Option<Retention>,
}

/// Create a project
///
/// Requires a server-wide token. The position is one of the log `system`.
#[utoipa::path(
    post, path = "/api/v1/projects", tag = "projects",
    params(IdempotencyParam),
    request_body = CreateProject,
    responses((status = 201, description = "Created", body = ProjectMade), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn create_project(
    State(state): State<CommandState>,
    allowed: Allowed<Administer>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    Json(body): Json<CreateProject>,
) -> Result<(StatusCode, HeaderMap, axum::Json<ProjectMade>), Problem> {
    check(&allowed.principal, None)?;
    let title = match body.title {
        Some(title) => title,
        None => body.id.as_str().parse().map_err(|error| Problem::internal(&error))?,
    };
    let request = request(&allowed.principal, ProjectId::system(), &key, &IfMatch::Absent);
    let written = {
        let retention = body.retention.unwrap_or_default();
        state.service.projects.create(&request, body.id.clone(), title, retention).await?
    };
    let made = ProjectMade { id: body.id, result: written.into() };
    Ok((StatusCode::CREATED, headers(written), axum::Json(made)))
}

/// Rename, archive or restore a project, or change its metrics' retention
///
/// The metric store applies a new retention within seconds. The position is one of the log
/// `system`.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = ProjectId, Path, description = "The project's id"), IfMatchParam, IdempotencyParam),
    request_body = ChangeProject,
    responses((status = 200, description = "Changed", body = WriteResult, example = json!({"version": 2, "position": 42})), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn change_project(
    State(state): State<CommandState>,
    allowed: Allowed<Administer>,
    PathParam(project): PathParam<ProjectId>,
    Query(NoParams {}): Query<NoParams>,
    if_match: IfMatch,
    key: IdempotencyKey,
    Json(body): Json<ChangeProject>,
) -> Result<(HeaderMap, axum::Json<WriteResult>), Problem> {
    check(&allowed.principal, Some(&project))?;
    let request = request(&allowed.principal, ProjectId::system(), &key, &if_match);
    let ChangeProject { title, archived, retention } = body;
    let changed = state.service.projects.change(&request, &project, title, archived, retention);
    let written = changed.await?;
    Ok((headers(written), axum::Json(written.into())))
}

/// Checks that the principal may change this project: a project's token reaches only that project.
fn check(principal: &Principal, project: Option<&ProjectId>) -> Result<(), Problem> {
    match &principal.project {
        Some(own) if Some(own) != project => Err(Problem::new(
            Kind::Forbidden,
            format!("the token is for project {own} only; this requires a server-wide token"),
        )),
        _ => Ok(()),
    }
}
