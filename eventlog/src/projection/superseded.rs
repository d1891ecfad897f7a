//! Removal of the tables of superseded projections.
//!
//! A changed fold has a new version and fills tables of its own, so that an old release can run
//! next to a new one. The old tables are dropped when no process has updated them for a week.

use async_recursion::async_recursion as boxed;
use tokio_postgres::error::SqlState;

use crate::error::{ErrorContext, StoreError};
use crate::log::EventLog;

/// Time for which the tables of a superseded projection are kept after its last update, in days.
const KEPT_DAYS: i32 = 7;

/// Splits `devices_v2` into `devices` and 2.
fn parse_version(name: &str) -> Option<(&str, u32)> {
    let (base, version) = name.rsplit_once("_v")?;
    Some((base, version.parse().ok()?))
}

/// Whether `name` is an earlier version of one of the live projections.
fn is_superseded(name: &str, live: &[&str]) -> bool {
    let Some((base, version)) = parse_version(name) else { return false };
    live.iter()
        .filter_map(|live| parse_version(live))
        .any(|(live_base, live_version)| live_base == base && live_version > version)
}

impl EventLog {
    /// Drops the tables and checkpoints of earlier versions of these projections; returns their
    /// names. A version is kept while a process updates it: until its checkpoint is behind the log
    /// and was not moved for a week. Needs the rights of the tables' owner.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or a statement fails.
    #[boxed]
    pub async fn drop_superseded_projections(
        &self,
        live: &[&str],
    ) -> Result<Vec<String>, StoreError> {
        let client = self.stores().dialer.dial().await?;
        let rows = client
            .query(
                "SELECT c.projection FROM checkpoints c JOIN heads h USING (project)
                 GROUP BY c.projection
                 HAVING bool_or(c.position < h.position)
                    AND max(c.updated_at) < clock_timestamp() - make_interval(days => $1)",
                &[&KEPT_DAYS],
            )
            .await
            .while_trying("list the unused projections")?;
        let mut dropped = Vec::new();
        for row in rows {
            let name: String = row.get(0);
            if is_superseded(&name, live) && drop_projection(&client, &name).await? {
                dropped.push(name);
            }
        }
        Ok(dropped)
    }
}

/// Drops one projection; false if another object, such as a user's view, needs its tables.
async fn drop_projection(client: &tokio_postgres::Client, name: &str) -> Result<bool, StoreError> {
    // The names of its tables start with its name, which has no special characters.
    let script = format!(
        "BEGIN; SET LOCAL lock_timeout = '10s';
         DELETE FROM checkpoints WHERE projection = '{name}';
         DO $do$ DECLARE found regclass; BEGIN
             FOR found IN SELECT oid::regclass FROM pg_class
                 WHERE relkind = 'r' AND pg_table_is_visible(oid)
                   AND (relname = '{name}' OR starts_with(relname, '{name}_'))
             LOOP
                 EXECUTE format('DROP TABLE %s', found);
             END LOOP;
         END $do$;
         COMMIT;"
    );
    match client.batch_execute(&script).await {
        Ok(()) => Ok(true),
        Err(error) => {
            let _ = client.batch_execute("ROLLBACK").await;
            if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) {
                tracing::warn!(
                    projection = name,
                    "the tables of a superseded projection are not dropped: another object needs them"
                );
                return Ok(false);
            }
            Err(error).while_trying("drop the tables of a superseded projection")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_versions_are_superseded() {
        let live = ["devices_v3", "dispatch_v1"];
        for (name, expected) in [
            ("devices_v1", true),
            ("devices_v2", true),
            ("devices_v3", false),
            // Of a newer release, which runs or ran next to this one.
            ("devices_v4", false),
            ("devices_v10", false),
            ("dispatch_v0", true),
            ("dispatch_v1", false),
            ("other_v1", false),
            ("devices", false),
            ("devices_vx", false),
        ] {
            assert_eq!(is_superseded(name, &live), expected, "{name}");
        }
    }
}
