//! The table of the runs of uploads: their positions in the log, and their paths.

use muster_eventlog::projection::{ProjectionError, Transaction};
use muster_schemas::{DeviceId, OperationId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::projections::devices::store_error;
use crate::projections::{as_i64, storable};

/// Returns the `CREATE TABLE` for the additional table of this name.
pub(super) fn tables(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table}_uploads (
             project   text COLLATE \"C\" NOT NULL,
             operation uuid    NOT NULL,
             device    uuid    NOT NULL,
             position  bigint  NOT NULL,
             path      text COLLATE \"C\" NOT NULL,
             erased    boolean NOT NULL DEFAULT false,
             PRIMARY KEY (project, operation, device)
         );
         CREATE UNIQUE INDEX IF NOT EXISTS {table}_uploads_position
             ON {table}_uploads (project, position);
         CREATE INDEX IF NOT EXISTS {table}_uploads_device
             ON {table}_uploads (project, device, position)"
    )
}

/// Adds runs of an upload, each with the position of its request.
pub(super) async fn add(
    table: &str,
    transaction: &Transaction<'_>,
    project: &str,
    (operation, path): (OperationId, &str),
    runs: &[(DeviceId, u64)],
) -> Result<(), ProjectionError> {
    let sql = format!(
        "INSERT INTO {table}_uploads (project, operation, device, position, path)
         SELECT $1, $2, n.device, n.position, $5
         FROM unnest($3::uuid[], $4::bigint[]) AS n (device, position) ON CONFLICT DO NOTHING"
    );
    let devices: Vec<Uuid> = runs.iter().map(|(device, _)| device.0).collect();
    let positions: Vec<i64> = runs.iter().map(|(_, position)| as_i64(*position)).collect();
    let path = storable(path);
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&project, &operation.0, &devices, &positions, &path];
    transaction.execute(&sql, &parameters).await.map_err(store_error("write uploads"))?;
    Ok(())
}

/// Records that the files of these runs were erased.
pub(super) async fn erase(
    table: &str,
    transaction: &Transaction<'_>,
    project: &str,
    runs: &[(OperationId, DeviceId)],
) -> Result<(), ProjectionError> {
    if runs.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE {table}_uploads u SET erased = true
         FROM unnest($2::uuid[], $3::uuid[]) AS n (operation, device)
         WHERE u.project = $1 AND u.operation = n.operation AND u.device = n.device"
    );
    let operations: Vec<Uuid> = runs.iter().map(|(operation, _)| operation.0).collect();
    let devices: Vec<Uuid> = runs.iter().map(|(_, device)| device.0).collect();
    let parameters: [&(dyn ToSql + Sync); 3] = [&project, &operations, &devices];
    transaction.execute(&sql, &parameters).await.map_err(store_error("write uploads"))?;
    Ok(())
}
