//! Partitions of `events`: a project's own, cut into ranges of positions, made ahead of need.
//!
//! `CREATE TABLE … PARTITION OF` would wait behind every open reader, so a partition is made beside
//! the log (`LIKE` and a CHECK) and attached, which takes milliseconds.

use muster_schemas::ProjectId;
use tokio_postgres::Client;

use crate::error::{Attempted, StoreError};

/// Which range of positions a position is in, from 0.
pub(crate) const fn range_of(position: u64, rows: u64) -> u64 {
    position.saturating_sub(1) / rows
}

/// `p_<project>`, as an identifier: project names hold nothing but `a-z0-9-`.
fn parent(project: &ProjectId) -> String {
    format!("events_{}", project.as_str().replace('-', "_"))
}

/// Makes the project's own partition, if it is not there.
pub(crate) async fn ensure_project(client: &Client, project: &ProjectId) -> Result<(), StoreError> {
    let (table, name) = (parent(project), project.as_str());
    create(
        client,
        &table,
        &format!(
            "CREATE TABLE {table} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
                CONSTRAINT {table}_project CHECK (project = '{name}')) PARTITION BY RANGE (position);
             ALTER TABLE events ATTACH PARTITION {table} FOR VALUES IN ('{name}');
             ALTER TABLE {table} DROP CONSTRAINT {table}_project;"
        ),
    )
    .await
}

/// Makes the partition for one range of positions, if it is not there.
pub(crate) async fn ensure_range(
    client: &Client,
    project: &ProjectId,
    range: u64,
    rows: u64,
) -> Result<(), StoreError> {
    let (parent, name) = (parent(project), project.as_str());
    let table = format!("{parent}_{range}");
    let (from, to) = (range * rows + 1, (range + 1) * rows + 1);
    create(
        client,
        &table,
        &format!(
            "CREATE TABLE {table} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
                CONSTRAINT {table}_range CHECK (project = '{name}' AND position >= {from} AND position < {to}));
             ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ({from}) TO ({to});
             ALTER TABLE {table} DROP CONSTRAINT {table}_range;"
        ),
    )
    .await
}

/// Runs the statements unless the table exists; two processes at once do it once.
///
/// Under the lock the catalog is read as a table: `to_regclass` may answer from this session's own
/// cache, which still says "no such table" after another process has made it.
async fn create(client: &Client, table: &str, statements: &str) -> Result<(), StoreError> {
    let exists = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])
        .await
        .attempted("look for a partition")?;
    if exists.get(0) {
        return Ok(());
    }
    client
        .batch_execute(&format!(
            "BEGIN;
             SELECT pg_advisory_xact_lock(hashtextextended('muster-partition:{table}', 0));
             DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_class
                                WHERE relname = '{table}' AND pg_table_is_visible(oid)) THEN
                     {statements}
                 END IF;
             END $$;
             COMMIT;"
        ))
        .await
        .attempted("make a partition of the log")
}
