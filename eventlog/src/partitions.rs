//! Partitions of `events`: a project's own, cut into ranges of positions, made ahead of need.
//!
//! `CREATE TABLE … PARTITION OF` would wait behind every open reader, so a partition is made beside
//! the log (`LIKE` and a CHECK) and attached, which takes milliseconds. Functions of the database do
//! it with the rights of its owner (`eventlog/migrations/0013_database_roles.sql`).

use muster_schemas::ProjectId;
use tokio_postgres::Client;

use crate::device_keys::as_i64;
use crate::error::{Attempted, StoreError};

/// Which range of positions a position is in, from 0.
pub(crate) const fn range_of(position: u64, rows: u64) -> u64 {
    position.saturating_sub(1) / rows
}

/// `p_<project>`, as an identifier: project names hold nothing but `a-z0-9-`.
fn parent(project: &ProjectId) -> String {
    format!("events_{}", project.as_str().replace('-', "_"))
}

/// Makes the project's own partition, and the head of its log, if they are not there.
pub(crate) async fn ensure_project(client: &Client, project: &ProjectId) -> Result<(), StoreError> {
    client
        .execute("SELECT muster_ensure_project($1)", &[&project.as_str()])
        .await
        .attempted("make a project's log")
        .map(drop)
}

/// Makes the partition for one range of positions, if it is not there.
pub(crate) async fn ensure_range(
    client: &Client,
    project: &ProjectId,
    range: u64,
    rows: u64,
) -> Result<(), StoreError> {
    let table = format!("{}_{range}", parent(project));
    let exists = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])
        .await
        .attempted("look for a partition")?;
    if exists.get(0) {
        return Ok(());
    }
    client
        .execute(
            "SELECT muster_ensure_range($1, $2, $3)",
            &[&project.as_str(), &as_i64(range), &as_i64(rows)],
        )
        .await
        .attempted("make a partition of the log")
        .map(drop)
}
