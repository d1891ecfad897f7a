//! A projection's table: batches of rows that are inserted, replaced and read by key.

use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::StoredEvent;
use muster_eventlog::projection::{
    Column, Columns, Projection, ProjectionError, Runner, Table, Transaction, Write,
};
use muster_schemas::{ProjectId, StreamVersion};
use tokio_postgres::types::ToSql;

use crate::support::database;
use crate::{Expected, append};

const COLUMNS: Columns = Columns {
    key: &[Column::new("one", "bigint"), Column::new("two", "bigint")],
    values: &[Column::new("labels", "jsonb"), Column::key_text("status").or_null()],
};

/// Writes the same batch with the way that the position of an event selects.
struct Batches(Table);

const WAYS: [Write; 4] = [Write::Insert, Write::InsertMissing, Write::Update, Write::Upsert];

#[async_trait]
impl Projection for Batches {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn tables(&self) -> String {
        self.0.create()
    }

    fn needs_authority(&self) -> bool {
        false
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        for event in events {
            let way = WAYS[event.position.index().unwrap() as usize];
            let text = format!("{way:?}");
            // The first row is in the table from the first batch on, the second one never.
            let two = [1_i64, event.position.get().cast_signed() * 10];
            let labels = [format!("{{\"n\": 1.50, \"way\": \"{text}\"}}"), "{}".to_owned()];
            let status = [Some(text), None];
            let one = [7_i64; 2];
            let arrays: [&(dyn ToSql + Sync); 4] =
                [&&one[..], &&two[..], &&labels[..], &&status[..]];
            self.0.write(transaction, project.as_str(), way, &arrays).await?;
            let keys: [&(dyn ToSql + Sync); 2] = [&&one[..], &&two[..]];
            let rows = self.0.read(transaction, project.as_str(), &keys, "two, status").await?;
            let inserted = if way == Write::Update { 1 } else { 2 };
            assert_eq!(rows.len(), inserted, "{way:?}");
        }
        Ok(())
    }
}

#[tokio::test]
async fn rows_are_inserted_kept_updated_and_replaced_by_their_key() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let mut runner =
        Runner::open(log.clone(), Batches(Table::new("batches_v1", COLUMNS))).await.unwrap();
    for (version, expected) in ["Insert", "Insert", "Update", "Upsert"].into_iter().enumerate() {
        let version = Expected::Version(StreamVersion(version as u64));
        log.append(&project, append("a", version, 1)).await.unwrap();
        runner.catch_up().await.unwrap();
        let first = "SELECT status || labels::text FROM batches_v1 WHERE one = 7 AND two = 1";
        let labels = format!("{expected}{{\"n\": 1.50, \"way\": \"{expected}\"}}");
        assert_eq!(database.texts(first).await, [labels]);
    }
    let all = "SELECT two::text FROM batches_v1 ORDER BY two";
    assert_eq!(database.texts(all).await, ["1", "10", "20", "40"]);
}
