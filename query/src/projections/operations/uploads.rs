//! The table of the runs of uploads: their positions in the log, and their paths.

use muster_eventlog::StoreError;
use muster_eventlog::as_i64;
use muster_eventlog::projection::{Column, Columns, ProjectionError, Table, Transaction, Write};
use muster_schemas::{DeviceId, OperationId, Position};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::projections::storable;

const COLUMNS: Columns = Columns {
    key: &[Column::new("operation", "uuid"), Column::new("device", "uuid")],
    values: &[
        Column::new("position", "bigint"),
        Column::key_text("path"),
        Column::new("erased", "boolean").or_default("false"),
    ],
};

/// The table.
#[derive(Debug)]
pub(super) struct Uploads(Table);

impl Uploads {
    /// Returns the additional table of this one.
    pub(super) fn of(operations: &str) -> Self {
        Self(Table::new(format!("{operations}_uploads"), COLUMNS))
    }

    /// Returns its `CREATE TABLE`.
    pub(super) fn tables(&self) -> String {
        let name = self.0.name();
        format!(
            "{};
             CREATE UNIQUE INDEX IF NOT EXISTS {name}_position ON {name} (project, position);
             CREATE INDEX IF NOT EXISTS {name}_device ON {name} (project, device, position)",
            self.0.create()
        )
    }

    /// Adds runs of an upload, each with the position of its request.
    pub(super) async fn add(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        operation: OperationId,
        path: &str,
        runs: &[(DeviceId, Position)],
    ) -> Result<(), ProjectionError> {
        let operations = vec![operation.0; runs.len()];
        let devices: Vec<Uuid> = runs.iter().map(|(device, _)| device.0).collect();
        let positions: Vec<i64> = runs.iter().map(|(_, position)| as_i64(*position)).collect();
        let paths = vec![storable(path); runs.len()];
        let erased = vec![false; runs.len()];
        let arrays: [&(dyn ToSql + Sync); 5] = [&operations, &devices, &positions, &paths, &erased];
        Ok(self.0.write(transaction, project, Write::InsertMissing, &arrays).await?)
    }

    /// Records that the files of these runs were erased.
    pub(super) async fn erase(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        runs: &[(OperationId, DeviceId)],
    ) -> Result<(), ProjectionError> {
        if runs.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {} u SET erased = true
             FROM unnest($2::uuid[], $3::uuid[]) AS n (operation, device)
             WHERE u.project = $1 AND u.operation = n.operation AND u.device = n.device",
            self.0.name()
        );
        let operations: Vec<Uuid> = runs.iter().map(|(operation, _)| operation.0).collect();
        let devices: Vec<Uuid> = runs.iter().map(|(_, device)| device.0).collect();
        let parameters: [&(dyn ToSql + Sync); 3] = [&project, &operations, &devices];
        transaction
            .execute(&sql, &parameters)
            .await
            .map_err(StoreError::query("record erased uploads"))?;
        Ok(())
    }
}
