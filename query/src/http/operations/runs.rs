//! `GET /operations/{id}/runs`, `GET /operations/{id}/runs/{device}`.

use std::time::SystemTime;

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, PathParam, Problem, Query, Scope, etag};
use muster_api_types::devices::Status;
use muster_api_types::runs as api;
use muster_api_types::{Page, RunPage, schema};
use muster_schemas::{DeviceId, OperationId, ProjectId, RunState};
use serde::Deserialize;
use sqlx::QueryBuilder;
use utoipa::IntoParams;
use uuid::Uuid;

use super::get::find;
use super::view::{run_example, run_view};
use crate::http::devices::resolve;
use crate::http::keyset::{Keyset, Order};
use crate::projections::devices;
use crate::projections::operations::{Run, TABLE, explain};
use crate::state::{QueryState, sql_problem};

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListRuns {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Only runs with these statuses, comma-separated.
    #[param(
        example = "failed,timed_out",
        pattern = "^(requested|dispatched|accepted|running|succeeded|failed|timed_out|canceled|expired|rejected|unknown)(,(requested|dispatched|accepted|running|succeeded|failed|timed_out|canceled|expired|rejected|unknown))*$"
    )]
    status: Option<String>,
}

/// List the runs of an operation
///
/// One run for each target device. Filter with `status` to find the unsuccessful ones.
#[utoipa::path(
    get, path = "/api/v1/operations/{operation}/runs", tag = "operations", security(("bearer" = [])),
    params(
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ListRuns, ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "A page of runs", body = RunPage,
            example = json!({"items": [run_example()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_runs(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam(operation): PathParam<OperationId>,
    Query(query): Query<ListRuns>,
) -> Result<Json<Page<api::Run>>, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let states = statuses(query.status.as_deref())?;
    let page = Keyset::new("r.device", Order::Ascending, query.cursor.as_deref(), query.limit)?;
    find(&state, project, operation).await?;
    let mut sql = select();
    sql.push_bind(project.as_str().to_owned());
    sql.push(" AND r.operation = ").push_bind(operation.0);
    if !states.is_empty() {
        let statuses: Vec<String> = states.iter().map(|state| state.as_str().to_owned()).collect();
        sql.push(" AND r.status = ANY(").push_bind(statuses).push(")");
    }
    let (rows, next) = page.read(&state, sql, |row: &Row| row.0).await?;
    let mut items = Vec::with_capacity(rows.len());
    for (device, name, _, text) in rows {
        items.push(run_view(operation, DeviceId(device), name, read(&text)?));
    }
    Ok(Json(Page { items, next }))
}

/// Get a run with an explanation of its status
///
/// `explanation` is text for people: why the run waits, or why it did not succeed, and what can be
/// done. Programs decide by `status`.
#[utoipa::path(
    get, path = "/api/v1/operations/{operation}/runs/{device}", tag = "operations",
    security(("bearer" = [])),
    params(
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The run", body = api::Run,
            headers(("ETag" = String, description = "Version of its stream")),
            example = json!(run_example())),
        ReadProblems,
    )
)]
pub(crate) async fn get_run(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let requested = find(&state, project, operation).await?;
    let device = resolve(&state, project, &device).await?;
    let (name, status, run) = find_run(&state, project, operation, device).await?;
    let explanation = explain(&requested, &run, status, SystemTime::now().into());
    let mut view = run_view(operation, device, name, run);
    view.explanation = Some(explanation);
    Ok(([etag(view.version)], Json(view)))
}

/// Device, its name and status, and the run's state.
type Row = (Uuid, Option<String>, Option<String>, String);

fn select() -> QueryBuilder<sqlx::Postgres> {
    QueryBuilder::new(format!(
        "SELECT r.device, d.name, d.status, r.state FROM {TABLE}_runs r
         LEFT JOIN {} d ON d.project = r.project AND d.device = r.device WHERE r.project = ",
        devices::TABLE
    ))
}

fn read(text: &str) -> Result<Run, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::internal(&error))
}

/// Reads a run, with the name and the status of its device.
pub(super) async fn find_run(
    state: &QueryState,
    project: &ProjectId,
    operation: OperationId,
    device: DeviceId,
) -> Result<(Option<String>, Option<Status>, Run), Problem> {
    let mut sql = select();
    sql.push_bind(project.as_str().to_owned());
    sql.push(" AND r.operation = ").push_bind(operation.0);
    sql.push(" AND r.device = ").push_bind(device.0);
    let row: Option<Row> =
        sql.build_query_as().fetch_optional(state.sql()).await.map_err(sql_problem)?;
    let (_, name, word, text) = row.ok_or_else(|| {
        Problem::not_found(format!("device {device} has no run of operation {operation}"))
    })?;
    let status = word.and_then(|word| Status::ALL.into_iter().find(|one| one.as_str() == word));
    Ok((name, status, read(&text)?))
}

fn statuses(text: Option<&str>) -> Result<Vec<RunState>, Problem> {
    let words = text.into_iter().flat_map(|words| words.split(','));
    words
        .map(|word| {
            let found = RunState::ALL.into_iter().find(|state| state.as_str() == word.trim());
            found.ok_or_else(|| {
                let all: Vec<&str> = RunState::ALL.iter().map(|state| state.as_str()).collect();
                let rule = format!("is not one of {}", all.join(", "));
                Problem::parameter("status", rule, Some(word.into()))
            })
        })
        .collect()
}
