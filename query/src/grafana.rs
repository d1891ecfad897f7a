//! Grafana's access to PostgreSQL: views on the read models, in addition to those on the log
//! (`eventlog/migrations/0004_grafana.sql`), and the role that may read only these views.
//!
//! A read model's table is named after its fold's version, so its views are created here, for the
//! live table. The role is only created on request: a managed PostgreSQL may refuse it.

use async_recursion::async_recursion as boxed;
use muster_eventlog::EventLog;
use sqlx::AssertSqlSafe;

use crate::projections::{devices, projects, timeline, tokens};

/// Name of the role with which Grafana connects.
pub const ROLE: &str = "muster_grafana";

/// Advisory lock of the replacement of the views: concurrent replacements would conflict.
const LOCK: i64 = 0x006d_7573_7465_7204;

/// Returns the views on the live tables. Invariant: their columns never change, like those of the
/// migration.
fn views() -> String {
    let table = devices::TABLE;
    let timeline = timeline::TABLE;
    // The tables of earlier folds still exist, but are not updated.
    let live = [table, timeline, tokens::TABLE, projects::TABLE].join("', '");
    format!(
        "CREATE OR REPLACE VIEW grafana.devices AS
         SELECT project,
                device::text AS device,
                name,
                status,
                (SELECT string_agg(l.key || '=' || l.value, ', ' ORDER BY l.key)
                 FROM jsonb_each_text(labels) AS l) AS labels,
                os,
                arch,
                agent_version,
                to_timestamp(heard_at / 1e6) AS heard_at,
                CASE WHEN status = 'offline'
                     THEN extract(epoch FROM clock_timestamp())::double precision - heard_at / 1e6
                     ELSE 0 END AS offline_seconds
         FROM {table} WHERE status <> 'deleted';

         CREATE OR REPLACE VIEW grafana.device_labels AS
         SELECT project, device::text AS device, l.key || '=' || l.value AS label
         FROM {table}, jsonb_each_text(labels) AS l WHERE status <> 'deleted';

         -- By the timeline's index: one device's events are found without reading all others.
         CREATE OR REPLACE VIEW grafana.device_events AS
         SELECT t.project, t.device, t.position, e.type, e.actor, e.recorded_at
         FROM {timeline} t
         JOIN grafana.events e ON e.project = t.project AND e.position = t.position;

         CREATE OR REPLACE VIEW grafana.read_models AS
         SELECT projection, project, position, lag, failure, updated_at
         FROM projection_states WHERE projection IN ('{live}')"
    )
}

/// Privileges of the role, if it exists.
const GRANTS: &str = "
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'muster_grafana') THEN
            GRANT USAGE ON SCHEMA grafana TO muster_grafana;
            GRANT SELECT ON ALL TABLES IN SCHEMA grafana TO muster_grafana;
        END IF;
    END $$";

/// Creates the views on the live read models, and grants [`ROLE`], if it exists, read access to all
/// views.
///
/// # Errors
/// When PostgreSQL does not respond, or another session locks a view for longer than 5 s.
#[boxed]
pub async fn publish(log: &EventLog) -> Result<(), sqlx::Error> {
    // One message with several statements is one transaction.
    let views = views();
    run(
        log,
        format!(
            "SET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({LOCK}); {views}; {GRANTS}"
        ),
    )
    .await
}

async fn run(log: &EventLog, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&log.stores().sql).await.map(drop)
}

/// Result of [`grant_access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantOutcome {
    /// The role exists, has the password, and may read the views.
    Granted,
    /// The role exists and may read the views; an administrator has to set its password.
    PasswordUnchanged,
    /// The role does not exist, and this server may not create it.
    NoRole,
}

/// Creates the role [`ROLE`] or changes its password, and grants it read access to the views.
///
/// # Errors
/// When PostgreSQL does not respond, or refuses for another reason than missing privileges.
#[boxed]
pub async fn grant_access(log: &EventLog, password: &str) -> Result<GrantOutcome, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
            .bind(ROLE)
            .fetch_one(&log.stores().sql)
            .await?;
    let verb = if exists { "ALTER" } else { "CREATE" };
    let password = password.replace('\\', "\\\\").replace('\'', "''");
    let made = run(
        log,
        format!(
            "{verb} ROLE {ROLE} LOGIN CONNECTION LIMIT 20 PASSWORD E'{password}';
             ALTER ROLE {ROLE} SET default_transaction_read_only = on;
             ALTER ROLE {ROLE} SET statement_timeout = '30s'"
        ),
    )
    .await;
    let outcome = match made {
        Ok(()) => GrantOutcome::Granted,
        Err(error) if is_forbidden(&error) => {
            if exists {
                GrantOutcome::PasswordUnchanged
            } else {
                GrantOutcome::NoRole
            }
        }
        Err(error) => return Err(error),
    };
    if outcome != GrantOutcome::NoRole {
        // PostgreSQL 14 allows every role to create tables in `public`. Only its owner may change
        // that.
        let _ = run(log, "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned()).await;
        run(log, GRANTS.to_owned()).await?;
    }
    Ok(outcome)
}

pub(crate) fn is_forbidden(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("42501")
}
