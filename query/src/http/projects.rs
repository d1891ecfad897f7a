//! `/projects`: the projects that the token can access.

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::{Allowed, ReadDevices};
use muster_api::params::NoParams;
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Cursor, Json, Limit, MinPosition, PathParam, Problem, Query, etag};
use muster_api_types::projects::{Project, ProjectStatus};
use muster_api_types::{Page, schema};
use muster_schemas::{ProjectId, Timestamp};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

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

type Row = (String, String, bool, String, i64, i64);

/// List the projects that the token can access: its own, or all projects
#[utoipa::path(
    get, path = "/api/v1/projects", tag = "projects", security(("bearer" = [])),
    params(ListProjects, MinPositionParam),
    responses(
        (status = 200, description = "A page of projects, by id", body = Page<Project>,
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
    let after = Cursor::decode::<String>(query.cursor.as_deref())?.unwrap_or_default();
    let limit = usize::from(query.limit.get());
    let own = allowed.principal.project.as_ref();
    let mut items = read(&state, own, &after, limit + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| Cursor::encode(&last.id));
    Ok(Json(Page { items, next }))
}

/// Get a project
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
    let found = if reached { read(&state, Some(&project), "", 1).await?.pop() } else { None };
    match found {
        Some(project) => Ok(([etag(project.version)], Json(project))),
        None => Err(Problem::not_found(format!("there is no project '{project}'"))),
    }
}

async fn read(
    state: &QueryState,
    only: Option<&ProjectId>,
    after: &str,
    limit: usize,
) -> Result<Vec<Project>, Problem> {
    let sql = format!(
        "SELECT id, title, archived, retention, created_at, version FROM {TABLE}
         WHERE ($1::text IS NULL OR id = $1) AND id > $2 ORDER BY id LIMIT $3"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(only.map(ProjectId::as_str))
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let heads = state.log().heads().await?;
    rows.into_iter()
        .map(|(id, title, archived, retention, created_at, version)| {
            let id: ProjectId = id.parse().map_err(|error| Problem::internal(&error))?;
            let status = if archived { ProjectStatus::Archived } else { ProjectStatus::Active };
            Ok(Project {
                position: heads.get(&id).copied().unwrap_or_default(),
                id,
                title: title.parse().map_err(|error| Problem::internal(&error))?,
                status: status.into(),
                retention: retention.parse().map_err(|error| Problem::internal(&error))?,
                created_at: Timestamp(created_at),
                version: version.unsigned_abs(),
            })
        })
        .collect()
}

fn example() -> serde_json::Value {
    json!({
        "id": "plant-7", "title": "Plant 7", "status": "active", "retention": "90d",
        "created_at": "2026-11-23T08:00:00Z", "position": 4211, "version": 1
    })
}
