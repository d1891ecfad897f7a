//! `GET /fleet/summary`: the number of devices by status and by their attributes.

use axum::extract::State;
use axum::response::IntoResponse;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, MinPosition, Problem, Query, Scope, position_header};
use muster_api_types::server::FleetSummary;

use crate::projections::devices::TABLE;
use crate::state::{QueryState, sql_problem};

/// Maximum number of counted values of an attribute; less frequent values are left out.
const MAX_VALUES: i64 = 100;

/// Count the devices of a project by status and attributes
///
/// Deleted devices are not counted. Of operating systems, architectures and versions, the 100 most
/// frequent values are included.
#[utoipa::path(
    get, path = "/api/v1/fleet/summary", tag = "devices", security(("bearer" = [])),
    params(ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "The numbers of devices", body = FleetSummary,
            headers(("Muster-Position" = u64, description = "The position that the response shows")),
            example = json!({
                "device_count": 3,
                "status_counts": {"online": 2, "offline": 1},
                "os_counts": {"Debian GNU/Linux 12 (bookworm)": 3},
                "arch_counts": {"x86_64": 1, "aarch64": 2},
                "agent_version_counts": {"0.1.0": 3}
            })),
        ReadProblems,
    )
)]
pub(crate) async fn get_fleet_summary(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let progress = &state.read_models.devices;
    min_position.wait(state.log(), progress, &scope.project).await?;
    let position = progress.position(&scope.project);
    let sql = format!(
        "SELECT what, value, n FROM (
             SELECT what, value, count(*) AS n,
                    row_number() OVER (PARTITION BY what ORDER BY count(*) DESC, value) AS place
             FROM {TABLE}, LATERAL (VALUES ('status', status), ('os', os), ('arch', arch),
                                           ('agent_version', agent_version)) AS v (what, value)
             WHERE project = $1 AND status <> 'deleted' AND name IS NOT NULL
                   AND value IS NOT NULL
             GROUP BY what, value) counted
         WHERE place <= $2"
    );
    let rows: Vec<(String, String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(scope.project.as_str())
        .bind(MAX_VALUES)
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let mut summary = FleetSummary::default();
    for (what, value, count) in rows {
        let counts = match what.as_str() {
            "status" => {
                summary.device_count += count;
                &mut summary.status_counts
            }
            "os" => &mut summary.os_counts,
            "arch" => &mut summary.arch_counts,
            _ => &mut summary.agent_version_counts,
        };
        counts.insert(value, count);
    }
    Ok(([position_header(position)], Json(summary)))
}
