//! Resolution of the device in a path: the id of any device that exists or existed, or the name of
//! a device that is not deleted.

use muster_api::Problem;
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, ProjectId};

use crate::projections::devices::TABLE;
use crate::state::{QueryState, sql_problem};

/// Returns the id of the device in a path.
pub(crate) async fn resolve(
    state: &QueryState,
    project: &ProjectId,
    text: &str,
) -> Result<DeviceId, Problem> {
    // An id is also a valid name: text that parses as an id is one.
    let (id, name) = match (text.parse::<DeviceId>(), text.parse::<DeviceName>()) {
        (Ok(id), _) => (Some(id.0), None),
        (Err(_), Ok(name)) => (None, Some(name)),
        (Err(_), Err(_)) => return Err(unknown(project, text)),
    };
    let sql = format!(
        "SELECT device FROM {TABLE} WHERE project = $1 AND name IS NOT NULL
         AND (device = $2 OR (name = $3 AND status <> 'deleted'))"
    );
    let found: Option<uuid::Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(id)
        .bind(name.as_ref().map(DeviceName::as_str))
        .fetch_optional(state.sql())
        .await
        .map_err(sql_problem)?;
    found.map(DeviceId).ok_or_else(|| unknown(project, text))
}

/// Returns the problem of a device that does not exist.
pub(super) fn unknown(project: &ProjectId, text: &str) -> Problem {
    let text: String = text.chars().take(80).collect();
    Problem::not_found(format!(
        "there is no device '{text}' in project {project}; GET /api/v1/devices lists them"
    ))
}
