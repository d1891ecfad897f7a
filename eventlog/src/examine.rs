//! Examination of the database for `muster doctor`: it runs no migrations and changes nothing.

use async_recursion::async_recursion as boxed;
use muster_schemas::Timestamp;
use sqlx::Row;

use crate::connect::{ConnectOptions, Stores};
use crate::error::StoreError;
use crate::migrations::count_missing;

/// Results of an examination.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Version of PostgreSQL, as it reports it.
    pub version: String,
    /// Clock of PostgreSQL.
    pub now: Timestamp,
    /// Number of this release's migrations that the database does not have.
    pub missing: usize,
    /// Read models, including those of earlier releases, which no process updates.
    pub read_models: Vec<ReadModel>,
    /// Number of dead letters of the last day that were not retried.
    pub dead_letters: u64,
    /// The database user, if it has more rights than a role needs: a superuser, or the log's owner.
    pub excess_privileges: Option<String>,
    /// Number of connections in use, and their maximum.
    pub connections: (u64, u64),
}

/// State of a read model in one project.
#[derive(Clone, Debug)]
pub struct ReadModel {
    /// Name of its projection.
    pub name: String,
    /// Project of the log.
    pub project: String,
    /// Number of events that it has not read yet.
    pub lag: u64,
    /// Time at which the oldest of those was recorded.
    pub behind_since: Option<Timestamp>,
    /// Event at which it stopped.
    pub failure: Option<String>,
}

/// Examines a database.
///
/// # Errors
/// When it is unreachable or a query fails.
#[boxed]
pub async fn examine(connect: &ConnectOptions) -> Result<Examination, StoreError> {
    let stores = Stores::new(connect)?;
    query_examination(&stores.sql).await.map_err(|error| StoreError::Connect(Box::new(error)))
}

async fn query_examination(pool: &sqlx::PgPool) -> Result<Examination, sqlx::Error> {
    let row = sqlx::query(
        "SELECT current_setting('server_version') AS version,
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now,
                to_regclass('_sqlx_migrations') IS NOT NULL AS migrated,
                (SELECT rolname::text FROM pg_roles WHERE rolname = current_user
                    AND (rolsuper OR rolcreaterole OR EXISTS (SELECT FROM pg_class
                        WHERE oid = to_regclass('events') AND pg_has_role(relowner, 'MEMBER'))))
                    AS too_mighty,
                (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
                current_setting('max_connections')::bigint AS allowed",
    )
    .fetch_one(pool)
    .await?;
    let mut found = Examination {
        version: row.try_get("version")?,
        now: Timestamp(row.try_get("now")?),
        missing: count_missing(&[]),
        read_models: Vec::new(),
        excess_privileges: row.try_get("too_mighty")?,
        dead_letters: 0,
        connections: (
            row.try_get::<i64, _>("used")?.unsigned_abs(),
            row.try_get::<i64, _>("allowed")?.unsigned_abs(),
        ),
    };
    if !row.try_get::<bool, _>("migrated")? {
        return Ok(found);
    }
    let applied: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(pool)
            .await?;
    found.missing = count_missing(&applied);
    if found.missing > 0 {
        return Ok(found);
    }
    found.read_models = read_models(pool).await?;
    let dead_letters: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM dead_letters
         WHERE last_seen > clock_timestamp() - interval '1 day' AND retried_at IS NULL",
    )
    .fetch_one(pool)
    .await?;
    found.dead_letters = dead_letters.unsigned_abs();
    Ok(found)
}

async fn read_models(pool: &sqlx::PgPool) -> Result<Vec<ReadModel>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT c.projection, c.project, h.position - c.position AS lag, c.failure,
                (SELECT (extract(epoch FROM e.recorded_at) * 1000000)::bigint FROM events e
                 WHERE e.project = c.project AND e.position = c.position + 1) AS behind_since
         FROM checkpoints c JOIN heads h USING (project)
         ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let lag = row.try_get::<i64, _>("lag")?;
            Ok(ReadModel {
                name: row.try_get("projection")?,
                project: row.try_get("project")?,
                lag: u64::try_from(lag).unwrap_or_default(),
                behind_since: row.try_get::<Option<i64>, _>("behind_since")?.map(Timestamp),
                failure: row.try_get("failure")?,
            })
        })
        .collect()
}
