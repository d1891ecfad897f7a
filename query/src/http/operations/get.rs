//! `GET /operations`, `GET /operations/{id}`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, PathParam, Problem, Query, Scope, etag};
use muster_api_types::devices::DeviceRef;
use muster_api_types::operations::{self, Failure, OperationDetail, SlowRun};
use muster_api_types::{OperationPage, Page, schema};
use muster_schemas::{DeviceId, OperationId, ProjectId, RunState};
use serde::Deserialize;
use sqlx::{AssertSqlSafe, QueryBuilder};
use utoipa::IntoParams;
use uuid::Uuid;

use super::view::{detail_example, example, operation_view};
use crate::http::devices::resolve;
use crate::http::keyset::{Keyset, Order};
use crate::projections::devices;
use crate::projections::operations::{Operation, TABLE};
use crate::state::{QueryState, sql_problem};

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListOperations {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Only operations with a run on this device: its id or name.
    #[param(example = "robot-7")]
    device: Option<String>,
}

/// List operations, the newest first
///
/// Each with the number of its runs by status. Filter with `device` to see what was requested of
/// one device.
#[utoipa::path(
    get, path = "/api/v1/operations", tag = "operations", security(("bearer" = [])),
    params(ListOperations, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of operations", body = OperationPage,
            example = json!({"items": [example()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_operations(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    Query(query): Query<ListOperations>,
) -> Result<Json<Page<operations::Operation>>, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let page =
        Keyset::new("created_position", Order::Descending, query.cursor.as_deref(), query.limit)?;
    let mut sql = QueryBuilder::new(format!(
        "SELECT operation, created_position, state FROM {TABLE} o WHERE project = "
    ));
    sql.push_bind(project.as_str().to_owned());
    if let Some(device) = &query.device {
        let device = resolve(&state, project, device).await?;
        sql.push(format!(
            " AND EXISTS (SELECT FROM {TABLE}_runs r WHERE r.project = o.project
              AND r.operation = o.operation AND r.device = "
        ));
        sql.push_bind(device.0).push(")");
    }
    let (rows, next) = page.read(&state, sql, |row: &(Uuid, i64, String)| row.1).await?;
    let ids: Vec<Uuid> = rows.iter().map(|(id, ..)| *id).collect();
    let mut counts = counts(&state, project, &ids).await?;
    let mut items = Vec::with_capacity(rows.len());
    for (id, _, text) in rows {
        let operation = read(&text)?;
        let runs = counts.remove(&id).unwrap_or_default();
        items.extend(operation_view(OperationId(id), operation, runs));
    }
    Ok(Json(Page { items, next }))
}

/// Get an operation with a summary of its runs
///
/// The operation has ended when its `status` is `finished` or `aborted`; unsuccessful runs do not
/// change this, so read `run_counts` and `failures` for the result.
#[utoipa::path(
    get, path = "/api/v1/operations/{operation}", tag = "operations", security(("bearer" = [])),
    params(
        ("operation" = schema::OperationId, Path, description = "The operation's id"), ProjectParam,
        MinPositionParam,
    ),
    responses(
        (status = 200, description = "The operation", body = OperationDetail,
            headers(("ETag" = String, description = "Version of its stream")),
            example = json!(detail_example())),
        ReadProblems,
    )
)]
pub(crate) async fn get_operation(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam(id): PathParam<OperationId>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let operation = find(&state, project, id).await?;
    let mut counts = counts(&state, project, &[id.0]).await?;
    let runs = counts.remove(&id.0).unwrap_or_default();
    let operation = operation_view(id, operation, runs).ok_or_else(|| unknown(project, id))?;
    let version = operation.version;
    let detail = OperationDetail {
        operation,
        failures: failures(&state, project, id).await?,
        slowest_runs: slowest(&state, project, id).await?,
    };
    Ok(([etag(version)], Json(detail)))
}

pub(super) fn read(text: &str) -> Result<Operation, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::internal(&error))
}

fn unknown(project: &ProjectId, id: OperationId) -> Problem {
    Problem::not_found(format!("there is no operation {id} in project {project}"))
}

pub(super) async fn find(
    state: &QueryState,
    project: &ProjectId,
    id: OperationId,
) -> Result<Operation, Problem> {
    let sql = format!("SELECT state FROM {TABLE} WHERE project = $1 AND operation = $2");
    let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(id.0)
        .fetch_optional(state.sql())
        .await
        .map_err(sql_problem)?;
    read(&found.ok_or_else(|| unknown(project, id))?)
}

type Counts = BTreeMap<Uuid, BTreeMap<RunState, u64>>;

async fn counts(state: &QueryState, project: &ProjectId, ids: &[Uuid]) -> Result<Counts, Problem> {
    let sql = format!(
        "SELECT operation, status, count(*) FROM {TABLE}_runs
         WHERE project = $1 AND operation = ANY($2) GROUP BY 1, 2"
    );
    let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(ids)
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let mut counts = Counts::new();
    for (id, word, count) in rows {
        let run_state = RunState::ALL.into_iter().find(|state| state.as_str() == word);
        if let Some(run_state) = run_state {
            counts.entry(id).or_default().insert(run_state, count.unsigned_abs());
        }
    }
    Ok(counts)
}

async fn failures(
    state: &QueryState,
    project: &ProjectId,
    id: OperationId,
) -> Result<Vec<Failure>, Problem> {
    let sql = format!(
        "SELECT r.failure, count(*), (array_agg(r.device))[1:5],
                (array_agg(coalesce(d.name, '')))[1:5]
         FROM {TABLE}_runs r
         LEFT JOIN {} d ON d.project = r.project AND d.device = r.device
         WHERE r.project = $1 AND r.operation = $2 AND r.failure IS NOT NULL
         GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20",
        devices::TABLE
    );
    let rows: Vec<(String, i64, Vec<Uuid>, Vec<String>)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(id.0)
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let failure = |(reason, count, ids, names): (String, i64, Vec<Uuid>, Vec<String>)| Failure {
        reason,
        run_count: count.unsigned_abs(),
        devices: ids
            .into_iter()
            .zip(names)
            .map(|(id, name)| DeviceRef {
                id: DeviceId(id),
                name: Some(name).filter(|name| !name.is_empty()),
            })
            .collect(),
    };
    Ok(rows.into_iter().map(failure).collect())
}

async fn slowest(
    state: &QueryState,
    project: &ProjectId,
    id: OperationId,
) -> Result<Vec<SlowRun>, Problem> {
    let sql = format!(
        "SELECT r.device, d.name, r.duration FROM {TABLE}_runs r
         LEFT JOIN {} d ON d.project = r.project AND d.device = r.device
         WHERE r.project = $1 AND r.operation = $2 AND r.duration IS NOT NULL
         ORDER BY r.duration DESC, r.device LIMIT 5",
        devices::TABLE
    );
    let rows: Vec<(Uuid, Option<String>, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(id.0)
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let slow = |(id, name, micros): (Uuid, Option<String>, i64)| SlowRun {
        device: DeviceRef { id: DeviceId(id), name },
        duration_seconds: Duration::from_micros(micros.unsigned_abs()).as_secs_f64(),
    };
    Ok(rows.into_iter().map(slow).collect())
}
