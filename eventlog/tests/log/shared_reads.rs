//! Projections of one process read each event once, and never apply an event that the log no longer
//! contains.

use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Runner, Transaction};
use muster_eventlog::{Expected, StoredEvent};
use muster_schemas::ProjectId;

use crate::append;
use crate::support::{Database, database};

/// Writes the salt of every event.
struct Salts(&'static str);

#[async_trait]
impl Projection for Salts {
    fn name(&self) -> &str {
        self.0
    }

    fn tables(&self) -> String {
        format!("CREATE TABLE IF NOT EXISTS {} (position bigint PRIMARY KEY, salt bytea)", self.0)
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        _: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let sql = format!("INSERT INTO {} VALUES ($1, $2)", self.0);
        for event in events {
            let position = event.position.get().cast_signed();
            let salt = event.salt.as_ref();
            transaction.execute(&sql, &[&position, &salt]).await.unwrap();
        }
        Ok(())
    }
}

async fn salts(database: &Database, table: &str) -> Vec<String> {
    let sql = format!("SELECT position || encode(salt, 'hex') FROM {table} ORDER BY position");
    database.texts(&sql).await
}

#[tokio::test]
async fn all_projections_of_a_process_apply_the_same_events() {
    let database = database().await;
    let log = database.open().await;
    let mut first = Runner::open(log.clone(), Salts("first")).await.unwrap();
    let mut second = Runner::open(log.clone(), Salts("second")).await.unwrap();
    let mut late = Runner::open(log.clone(), Salts("late")).await.unwrap();
    for round in 0..20 {
        let stream = format!("s{round}");
        log.append(&ProjectId::default_project(), append(&stream, Expected::Any, 1 + round * 7))
            .await
            .unwrap();
        first.catch_up().await.unwrap();
        if round % 3 == 0 {
            second.catch_up().await.unwrap();
        }
    }
    second.catch_up().await.unwrap();
    late.catch_up().await.unwrap();
    let expected = salts(&database, "events").await;
    assert!(expected.len() > 1_000, "{}", expected.len());
    for table in ["first", "second", "late"] {
        assert_eq!(salts(&database, table).await, expected, "{table}");
    }
}

/// Two projections apply 10 events, and one of them 10 more; then the log is restored to its first 10
/// events, and `appended` others follow. Both projections apply the events of the restored log.
async fn restore_meanwhile(appended: u128) {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let mut ahead = Runner::open(log.clone(), Salts("ahead")).await.unwrap();
    let mut behind = Runner::open(log.clone(), Salts("behind")).await.unwrap();
    log.append(&project, append("a", Expected::Any, 10)).await.unwrap();
    ahead.catch_up().await.unwrap();
    behind.catch_up().await.unwrap();
    let tables = ["heads", "streams", "checkpoints", "ahead"];
    for table in tables {
        database.execute(&format!("CREATE TABLE saved_{table} AS SELECT * FROM {table}")).await;
    }
    log.append(&project, append("b", Expected::Any, 10)).await.unwrap();
    ahead.catch_up().await.unwrap();

    for table in tables {
        let restore =
            format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}");
        database.execute(&restore).await;
    }
    database.execute("DELETE FROM events WHERE position > 10").await;
    let other = database.open().await;
    other.append(&project, append("c", Expected::Any, appended)).await.unwrap();
    for runner in [&mut behind, &mut ahead] {
        // The first attempt may find that the log is another one.
        if runner.catch_up().await.is_err() {
            runner.catch_up().await.unwrap();
        }
    }
    // The projection that was ahead notices a log of the same length with the next event.
    other.append(&project, append("d", Expected::Any, 1)).await.unwrap();
    behind.catch_up().await.unwrap();
    ahead.catch_up().await.unwrap();
    let expected = salts(&database, "events").await;
    assert_eq!(expected.len() as u128, 11 + appended);
    for table in ["behind", "ahead"] {
        assert_eq!(salts(&database, table).await, expected, "{table}");
    }
}

#[tokio::test]
async fn events_in_memory_that_a_restored_log_has_replaced_are_not_applied() {
    restore_meanwhile(10).await;
}

#[tokio::test]
async fn events_in_memory_are_not_continued_by_those_of_a_restored_log() {
    restore_meanwhile(11).await;
}
