//! Routes of projects. Server-wide tokens create them; a project's own admins may rename and
//! archive it, and set the retention of its metrics.

use axum::extract::State;
use muster_api::auth::{Administer, Allowed, ServerWide};
use muster_api::etag::{IfMatchParam, IfNoneMatchParam};
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::NoParams;
use muster_api::problem::WriteProblems;
use muster_api::{IdempotencyKey, Json, PathParam, Problem, Query};
use muster_api_types::projects::{
    ChangeProject, CreateProject, Project, ProjectCreated, ProjectStatus, ReplaceProject,
};
use muster_api_types::schema;
use muster_schemas::ProjectId;
use muster_schemas::names::ProjectTitle;

use super::location;
use super::state::CommandState;
use super::write::{Changed, Created, Preconditions, changed, created, put, request};

/// Create a project
///
/// Requires a server-wide token. The position is one of the log `system`.
#[utoipa::path(
    post, path = "/api/v1/projects", tag = "projects",
    params(IdempotencyParam),
    request_body = CreateProject,
    responses((status = 201, description = "The project", body = Project), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn create_project(
    State(state): State<CommandState>,
    allowed: ServerWide<Administer>,
    Query(NoParams {}): Query<NoParams>,
    key: IdempotencyKey,
    Json(body): Json<CreateProject>,
) -> Result<Created<ProjectCreated>, Problem> {
    let title = title(body.title, &body.id)?;
    let request = request(&allowed.principal, ProjectId::system(), &key);
    let retention = body.retention.unwrap_or_default();
    let written = state.service.projects.create(&request, &body.id, title, retention).await?;
    let location = location::project(&body.id);
    Ok(created(written, &location, ProjectCreated { id: body.id, result: written.into() }))
}

/// Create a project, or replace its settings
///
/// Requires a server-wide token. The status of an existing project is unchanged. With `If-Match`,
/// no project is created. The position is one of the log `system`.
#[utoipa::path(
    put, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = schema::ProjectId, Path, description = "The project's id"), IfMatchParam, IfNoneMatchParam, IdempotencyParam),
    request_body = ReplaceProject,
    responses(
        (status = 200, description = "Replaced", body = Project),
        (status = 201, description = "Created", body = Project),
        WriteProblems,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn replace_project(
    State(state): State<CommandState>,
    allowed: ServerWide<Administer>,
    PathParam(project): PathParam<ProjectId>,
    Query(NoParams {}): Query<NoParams>,
    preconditions: Preconditions,
    key: IdempotencyKey,
    Json(body): Json<ReplaceProject>,
) -> Result<Changed, Problem> {
    let title = title(body.title, &project)?;
    let request = request(&allowed.principal, ProjectId::system(), &key);
    let request = preconditions.of(request);
    let retention = body.retention.unwrap_or_default();
    let (written, is_new) =
        state.service.projects.put(&request, &project, title, retention).await?;
    Ok(put(written, location::project(&project), is_new))
}

/// Returns the display name of a project: by default its id.
fn title(title: Option<ProjectTitle>, id: &ProjectId) -> Result<ProjectTitle, Problem> {
    match title {
        Some(title) => Ok(title),
        None => id.as_str().parse().map_err(|error| Problem::internal(&error)),
    }
}

/// Rename, archive or restore a project, or change its metrics' retention
///
/// The metric store applies a new retention within seconds. The position is one of the log
/// `system`.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = schema::ProjectId, Path, description = "The project's id"), IfMatchParam, IdempotencyParam),
    request_body = ChangeProject,
    responses((status = 200, description = "Changed", body = Project), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn change_project(
    State(state): State<CommandState>,
    allowed: Allowed<Administer>,
    PathParam(project): PathParam<ProjectId>,
    Query(NoParams {}): Query<NoParams>,
    preconditions: Preconditions,
    key: IdempotencyKey,
    body: Result<Json<ChangeProject>, Problem>,
) -> Result<Changed, Problem> {
    if allowed.principal.project.as_ref() != Some(&project) {
        allowed.principal.require_server_wide()?;
    }
    let Json(body) = body?;
    let request = request(&allowed.principal, ProjectId::system(), &key);
    let request = preconditions.of(request);
    let ChangeProject { title, status, retention } = body;
    let archived = status.map(|status| status == ProjectStatus::Archived);
    let written = state.service.projects.change(&request, &project, title, archived, retention);
    Ok(changed(written.await?, location::project(&project)))
}
