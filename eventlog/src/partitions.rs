//! Partitions of `events`: one per project, divided into ranges of positions, created in advance.
//!
//! `CREATE TABLE … PARTITION OF` would wait for every open reader, so a partition is created as a
//! separate table (`LIKE` and a CHECK) and attached, which takes milliseconds. Functions of the
//! database do it with the rights of its owner (`eventlog/migrations/0013_database_roles.sql`).

use muster_schemas::{Position, ProjectId};
use tokio_postgres::Client;

use crate::error::{ErrorContext, StoreError};
use crate::integers::as_i64;

/// Returns the range that a position is in, from 0.
pub(crate) const fn range_of(position: Position, rows: u64) -> u64 {
    position.previous().get() / rows
}

/// Returns `p_<project>` as an identifier: project names contain only `a-z0-9-`.
fn parent(project: &ProjectId) -> String {
    format!("events_{}", project.as_str().replace('-', "_"))
}

/// Creates the project's partition, and the head of its log, if they do not exist.
pub(crate) async fn ensure_project(client: &Client, project: &ProjectId) -> Result<(), StoreError> {
    client
        .execute("SELECT muster_ensure_project($1)", &[&project.as_str()])
        .await
        .while_trying("create a project's log")
        .map(drop)
}

/// Whether the partition for one range of positions exists. Rows may be refused for a moment longer:
/// PostgreSQL shows a new table before all sessions know that it is a partition.
pub(crate) async fn has_range(
    client: &Client,
    project: &ProjectId,
    range: u64,
) -> Result<bool, StoreError> {
    let table = format!("{}_{range}", parent(project));
    let exists = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])
        .await
        .while_trying("look up a partition")?;
    Ok(exists.get(0))
}

/// Creates the partition for one range of positions, if it does not exist, or waits until another
/// session has created it: after this, all sessions can write to it.
pub(crate) async fn ensure_range(
    client: &Client,
    project: &ProjectId,
    range: u64,
    rows: u64,
) -> Result<(), StoreError> {
    client
        .execute(
            "SELECT muster_ensure_range($1, $2, $3)",
            &[&project.as_str(), &as_i64(range), &as_i64(rows)],
        )
        .await
        .while_trying("create a partition of the log")
        .map(drop)
}
