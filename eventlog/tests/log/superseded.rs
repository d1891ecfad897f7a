//! Tables of superseded projections are dropped, but not while a process updates them.

use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Runner, Transaction};
use muster_eventlog::{EventLog, Expected, StoredEvent};
use muster_schemas::{Position, ProjectId};

use crate::append;
use crate::support::{Database, database};

/// A projection with two tables, which stay empty.
struct Empty(&'static str);

#[async_trait]
impl Projection for Empty {
    fn name(&self) -> &str {
        self.0
    }

    fn tables(&self) -> String {
        let name = self.0;
        format!(
            "CREATE TABLE IF NOT EXISTS {name} (id int); CREATE TABLE IF NOT EXISTS {name}_parts (id int)"
        )
    }

    async fn apply(
        &mut self,
        _: &Transaction<'_>,
        _: &ProjectId,
        _: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        Ok(())
    }
}

async fn run(log: &EventLog, name: &'static str) {
    let mut runner = Runner::open(log.clone(), Empty(name)).await.unwrap();
    runner.catch_up().await.unwrap();
}

async fn grow(log: &EventLog, stream: &str) {
    log.append(&ProjectId::default_project(), append(stream, Expected::Any, 3)).await.unwrap();
}

/// Moves the last update of a projection into the past.
async fn age(database: &Database, name: &str, days: u32) {
    let sql = format!(
        "UPDATE checkpoints SET updated_at = clock_timestamp() - interval '{days} days'
         WHERE projection = '{name}'"
    );
    database.execute(&sql).await;
}

async fn tables(database: &Database) -> Vec<String> {
    database
        .texts("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'fleet%' ORDER BY 1")
        .await
}

#[tokio::test]
async fn an_unused_earlier_version_is_dropped_after_a_week() {
    let database = database().await;
    let log = database.open().await;
    let live = ["fleet_v2"];
    grow(&log, "a").await;
    for name in ["fleet_v1", "fleet_v10", "fleet_v2", "fleets_v1"] {
        run(&log, name).await;
        age(&database, name, 8).await;
    }
    let dropped = async || log.drop_superseded_projections(&live).await.unwrap();
    // An old release that has read the whole log may still run.
    assert!(dropped().await.is_empty());
    grow(&log, "b").await;
    // An old release that is slow.
    age(&database, "fleet_v1", 6).await;
    assert!(dropped().await.is_empty());
    age(&database, "fleet_v1", 8).await;
    assert_eq!(dropped().await, ["fleet_v1"]);
    let kept = [
        "fleet_v10",
        "fleet_v10_parts",
        "fleet_v2",
        "fleet_v2_parts",
        "fleets_v1",
        "fleets_v1_parts",
    ];
    assert_eq!(tables(&database).await, kept);
    let states = log.projection_states(Some(&ProjectId::default_project())).await.unwrap();
    let names: Vec<&str> = states.iter().map(|state| state.name.as_str()).collect();
    assert_eq!(names, ["fleet_v10", "fleet_v2", "fleets_v1"]);
    assert!(
        states.iter().all(|state| (state.position, state.lag) == (Position(3), 3)),
        "{states:?}"
    );
    let worst = log.worst_projection(&["fleet_v2", "fleet_v3"]).await.unwrap().unwrap();
    assert_eq!((worst.name.as_str(), worst.lag), ("fleet_v3", 6));
}

#[tokio::test]
async fn tables_that_another_object_needs_are_kept() {
    let database = database().await;
    let log = database.open().await;
    grow(&log, "a").await;
    run(&log, "fleet_v1").await;
    grow(&log, "b").await;
    age(&database, "fleet_v1", 8).await;
    database.execute("CREATE VIEW mine AS SELECT * FROM fleet_v1_parts").await;
    assert!(log.drop_superseded_projections(&["fleet_v2"]).await.unwrap().is_empty());
    assert_eq!(tables(&database).await, ["fleet_v1", "fleet_v1_parts"]);
    database.execute("DROP VIEW mine").await;
    assert_eq!(log.drop_superseded_projections(&["fleet_v2"]).await.unwrap(), ["fleet_v1"]);
}
