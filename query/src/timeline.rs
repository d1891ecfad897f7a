//! Reads the timeline: the positions of one device's events.

use muster_eventlog::EventLog;
use muster_eventlog::as_i64;
use muster_schemas::{DeviceId, Position, ProjectId};

use crate::projections::timeline;

/// A range of positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// Only positions after this one.
    pub(crate) after: Position,
    /// Only positions up to this one.
    pub(crate) until: Position,
    /// Whether the newest positions come first.
    pub(crate) is_newest_first: bool,
    /// Maximum number of positions.
    pub(crate) limit: u32,
}

/// Returns the positions of a device's events.
///
/// # Errors
/// When PostgreSQL does not respond.
pub(crate) async fn positions(
    log: &EventLog,
    project: &ProjectId,
    device: DeviceId,
    range: &Positions,
) -> Result<Vec<Position>, sqlx::Error> {
    let order = if range.is_newest_first { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT position FROM {}
         WHERE project = $1 AND device = $2 AND position > $3 AND position <= $4
         ORDER BY position {order} LIMIT $5",
        timeline::TABLE
    );
    let positions: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(project.as_str())
        .bind(device.0)
        .bind(as_i64(range.after))
        .bind(as_i64(range.until))
        .bind(i64::from(range.limit))
        .fetch_all(&log.stores().sql)
        .await?;
    Ok(positions.into_iter().map(|position| Position(position.unsigned_abs())).collect())
}
