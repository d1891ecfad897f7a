//! Names of devices to which other resources refer.

use std::collections::HashMap;

use muster_api::Problem;
use muster_api_types::devices::DeviceRef;
use muster_schemas::{DeviceId, ProjectId};
use uuid::Uuid;

use crate::projections::devices::TABLE;
use crate::state::{QueryState, sql_problem};

/// Sets the names of these devices.
pub(crate) async fn set_names(
    state: &QueryState,
    project: &ProjectId,
    devices: Vec<&mut DeviceRef>,
) -> Result<(), Problem> {
    if devices.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = devices.iter().map(|device| device.id.0).collect();
    let sql = format!("SELECT device, name FROM {TABLE} WHERE project = $1 AND device = ANY($2)");
    let rows: Vec<(Uuid, Option<String>)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(ids)
        .fetch_all(state.sql())
        .await
        .map_err(sql_problem)?;
    let names: HashMap<DeviceId, Option<String>> =
        rows.into_iter().map(|(id, name)| (DeviceId(id), name)).collect();
    for device in devices {
        device.name = names.get(&device.id).cloned().flatten();
    }
    Ok(())
}
