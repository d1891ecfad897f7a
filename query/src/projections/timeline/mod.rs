//! The timeline: the device of each position of the log that is about one.
//!
//! The log itself has no index of devices' reports by stream (it would cost a quarter of the append
//! rate), so the pages of one device's events are read through this table.

use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{
    Column, Columns, Projection, ProjectionError, Table, Transaction,
};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::ProjectId;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use muster_eventlog::as_i64;

/// Name of the live table.
pub const TABLE: &str = "timeline_v1";

/// All columns are of the primary key, so that a page is read from the index alone.
const COLUMNS: Columns = Columns {
    key: &[Column::new("device", "uuid"), Column::new("position", "bigint")],
    values: &[],
};

/// Fills the timeline. There is no fold: a row is a position and its device.
#[derive(Debug)]
pub struct Timeline {
    table: Table,
    copy: String,
}

impl Timeline {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        let table = Table::new(table, COLUMNS);
        let columns = "(project, device, position)";
        Self { copy: format!("COPY {} {columns} FROM STDIN (FORMAT binary)", table.name()), table }
    }
}

#[async_trait]
impl Projection for Timeline {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn tables(&self) -> String {
        self.table.create()
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let mut rows: Vec<_> = events
            .iter()
            .filter_map(|event| Some((event.stream.device()?, as_i64(event.position))))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        // In the order of the index, each of its pages is written once.
        rows.sort_unstable();
        let sink = transaction
            .copy_in(&self.copy)
            .await
            .map_err(StoreError::query("start to write the timeline"))?;
        let writer = BinaryCopyInWriter::new(sink, &[Type::TEXT, Type::UUID, Type::INT8]);
        let mut writer = std::pin::pin!(writer);
        for (device, position) in rows {
            writer
                .as_mut()
                .write(&[&project.as_str(), &device.0, &position])
                .await
                .map_err(StoreError::query("write the timeline"))?;
        }
        writer.finish().await.map_err(StoreError::query("write the timeline"))?;
        Ok(())
    }
}
