//! `/projects`: the projects that the token can access.

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::{Allowed, ReadDevices};
use muster_api::params::NoParams;
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, PathParam, Problem, Query, etag};
use muster_api_types::projects::{Project, ProjectStatus};
use muster_api_types::{Page, ProjectPage, schema};
use muster_schemas::{Position, ProjectId, StreamVersion, Timestamp};
use serde::Deserialize;
use serde_json::json;
use sqlx::{Postgres, QueryBuilder};
use utoipa::IntoParams;

use super::keyset::{Keyset, Order};
use crate::projections::projects::TABLE;
use crate::state::{QueryState, sql_problem};

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListProjects {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
}

type Row = (String, String, bool, String, i64, String, i64);

/// List the projects that the token can access: its own, or all projects
///
/// A token of a project sees only that project, a server-wide token sees all, also archived ones.
#[utoipa::path(
    get, path = "/api/v1/projects", tag = "projects", security(("bearer" = [])),
    params(ListProjects, MinPositionParam),
    responses(
        (status = 200, description = "A page of projects, by id", body = ProjectPage,
            example = json!({"items": [example()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_projects(
    State(state): State<QueryState>,
    allowed: Allowed<ReadDevices>,
    min_position: MinPosition,
    Query(query): Query<ListProjects>,
) -> Result<Json<Page<Project>>, Problem> {
    min_position.wait(state.log(), &state.read_models.projects, &ProjectId::system()).await?;
    let page = Keyset::new("id", Order::Ascending, query.cursor.as_deref(), query.limit)?;
    let own = allowed.principal.project.as_ref();
    let (rows, next) = page.read(&state, select(own), |row: &Row| row.0.clone()).await?;
    Ok(Json(Page { items: views(&state, rows).await?, next }))
}

/// Get a project
///
/// If the token cannot access the project, the response is 404, as if it did not exist.
#[utoipa::path(
    get, path = "/api/v1/projects/{project}", tag = "projects", security(("bearer" = [])),
    params(("project" = schema::ProjectId, Path, description = "The project's id"), MinPositionParam),
    responses(
        (status = 200, description = "The project", body = Project,
            headers(("ETag" = String, description = "Version of the project")),
            example = json!(example())),
        ReadProblems,
    )
)]
pub(crate) async fn get_project(
    State(state): State<QueryState>,
    allowed: Allowed<ReadDevices>,
    min_position: MinPosition,
    PathParam(project): PathParam<ProjectId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    min_position.wait(state.log(), &state.read_models.projects, &ProjectId::system()).await?;
    // A token of another project must not learn whether the project exists.
    let reached = allowed.principal.project.as_ref().is_none_or(|own| *own == project);
    let found = if reached {
        let rows = select(Some(&project)).build_query_as().fetch_all(state.sql()).await;
        views(&state, rows.map_err(sql_problem)?).await?.pop()
    } else {
        None
    };
    match found {
        Some(project) => Ok(([etag(project.version)], Json(project))),
        None => Err(Problem::not_found(format!("there is no project '{project}'"))),
    }
}

/// Returns the query of all projects, or of one.
fn select(only: Option<&ProjectId>) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(format!(
        "SELECT id, title, archived, retention, created_at, created_by, version FROM {TABLE} WHERE true"
    ));
    if let Some(only) = only {
        sql.push(" AND id = ").push_bind(only.as_str().to_owned());
    }
    sql
}

async fn views(state: &QueryState, rows: Vec<Row>) -> Result<Vec<Project>, Problem> {
    let mut projects = Vec::with_capacity(rows.len());
    for (id, title, archived, retention, created_at, created_by, version) in rows {
        let status = if archived { ProjectStatus::Archived } else { ProjectStatus::Active };
        projects.push(Project {
            id: id.parse().map_err(|error| Problem::internal(&error))?,
            title: title.parse().map_err(|error| Problem::internal(&error))?,
            status: status.into(),
            retention: retention.parse().map_err(|error| Problem::internal(&error))?,
            created_at: Timestamp(created_at),
            created_by,
            position: Position::ZERO,
            version: StreamVersion(version.unsigned_abs()),
        });
    }
    let heads = state.log().heads().await?;
    for project in &mut projects {
        // A project's log is created before the event that adds the project.
        project.position = heads.get(&project.id).copied().unwrap_or(Position::ZERO);
    }
    Ok(projects)
}

fn example() -> serde_json::Value {
    json!({
        "id": "plant-7", "title": "Plant 7", "status": "active", "retention": "90d",
        "created_at": "2026-11-23T08:00:00Z",
        "created_by": "token:0198c0de-7001-7abc-8def-0123456789ab", "position": 4211, "version": 1
    })
}
