//! Walks through the pages of a list whose sort attribute changes meanwhile: the order at the start
//! is stored in PostgreSQL, which every query process reads (docs/decisions/0024).

use muster_api::Problem;
use muster_schemas::{DeviceId, ProjectId};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::state::sql_problem;

/// Lifetime of a walk, in seconds from its start.
const WALK_TTL_SECS: f64 = 3600.0;
/// Maximum number of walks of one token in a project; the oldest is deleted for a new one.
const MAX_PER_OWNER: i64 = 8;
/// Maximum number of walks in a project: 100 MB of ids with 100,000 devices.
const MAX_PER_PROJECT: i64 = 64;
/// Length of an id, in bytes.
const ID_BYTES: usize = 16;

/// Start of a page of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WalkCursor {
    #[serde(rename = "w")]
    walk: Uuid,
    /// Number of devices in the previous pages.
    #[serde(rename = "o")]
    offset: u32,
}

/// Stores an order; returns the cursor of its second page.
pub(super) async fn start(
    sql: &PgPool,
    project: &ProjectId,
    owner: &str,
    order: &[DeviceId],
    first_page: usize,
) -> Result<WalkCursor, Problem> {
    let walk = Uuid::new_v4();
    let ids: Vec<u8> = order.iter().flat_map(|device| *device.0.as_bytes()).collect();
    sqlx::query(
        "WITH ranked AS (
             SELECT walk, started_at, project,
                    row_number() OVER (PARTITION BY project, owner ORDER BY started_at DESC)
                        + (project = $2 AND owner = $3)::int AS of_owner,
                    row_number() OVER (PARTITION BY project ORDER BY started_at DESC)
                        + (project = $2)::int AS of_project
             FROM list_walks
         ), forgotten AS (
             DELETE FROM list_walks WHERE walk IN (
                 SELECT walk FROM list_walks WHERE walk IN (
                     SELECT walk FROM ranked
                     WHERE of_owner > $5 OR of_project > $6
                        OR started_at < clock_timestamp() - make_interval(secs => $7)
                 ) FOR UPDATE SKIP LOCKED
             )
         )
         INSERT INTO list_walks (walk, project, owner, devices) VALUES ($1, $2, $3, $4)",
    )
    .bind(walk)
    .bind(project.as_str())
    .bind(owner)
    .bind(ids)
    .bind(MAX_PER_OWNER)
    .bind(MAX_PER_PROJECT)
    .bind(WALK_TTL_SECS)
    .execute(sql)
    .await
    .map_err(sql_problem)?;
    Ok(WalkCursor { walk, offset: u32::try_from(first_page).unwrap_or(u32::MAX) })
}

impl WalkCursor {
    /// Returns the ids of a page and the cursor of the next one; `None` when the walk was deleted.
    pub(super) async fn page(
        self,
        sql: &PgPool,
        project: &ProjectId,
        limit: usize,
    ) -> Result<Option<(Vec<DeviceId>, Option<Self>)>, Problem> {
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let from = u64::from(self.offset) * ID_BYTES as u64;
        let row: Option<(Vec<u8>, i32)> = sqlx::query_as(
            "SELECT substring(devices FROM $3::int FOR $4::int), octet_length(devices)
             FROM list_walks
             WHERE walk = $1 AND project = $2
               AND started_at >= clock_timestamp() - make_interval(secs => $5)",
        )
        .bind(self.walk)
        .bind(project.as_str())
        // `substring` counts bytes from 1.
        .bind(i32::try_from(from + 1).unwrap_or(i32::MAX))
        .bind(i32::try_from(number(limit * ID_BYTES)).unwrap_or(i32::MAX))
        .bind(WALK_TTL_SECS)
        .fetch_optional(sql)
        .await
        .map_err(sql_problem)?;
        let Some((bytes, length)) = row else { return Ok(None) };
        let ids: Vec<DeviceId> = bytes
            .chunks_exact(ID_BYTES)
            .filter_map(|id| Uuid::from_slice(id).ok())
            .map(DeviceId)
            .collect();
        let end = from + bytes.len() as u64;
        let is_more = !ids.is_empty() && end < u64::from(length.unsigned_abs());
        let next = Self {
            walk: self.walk,
            offset: self.offset.saturating_add(u32::try_from(ids.len()).unwrap_or(u32::MAX)),
        };
        Ok(Some((ids, is_more.then_some(next))))
    }
}
