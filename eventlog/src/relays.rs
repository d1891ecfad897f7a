//! Relays: websockets to devices, and the processes that carry them. Their registrations expire
//! like leases; unlike leases, they are never taken over, only reaped.

use std::time::Duration;

use muster_schemas::{DeviceId, ProjectId, SessionId};
use uuid::Uuid;

use crate::error::{ErrorContext, StoreError};
use crate::log::EventLog;

/// A relay: a websocket to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Id of the relay.
    pub id: Uuid,
    /// Project of the device.
    pub project: ProjectId,
    /// Id of the device.
    pub device: DeviceId,
    /// Session that it belongs to.
    pub session: SessionId,
    /// Whether a client is attached to a shell by it; otherwise the session ends with it.
    pub is_shell: bool,
    /// Actor that opened it.
    pub actor: String,
}

impl EventLog {
    /// Registers a relay of this process for the time `life`.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn put_relay(&self, relay: &Relay, ttl: Duration) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        let Relay { id, project, device, session, is_shell, actor } = relay;
        client
            .execute(
                "INSERT INTO bridges (id, project, device, session, is_shell, actor, expires_at)
                 VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7 * interval '1 second')",
                &[
                    id,
                    &project.as_str(),
                    &device.0,
                    &session.0,
                    is_shell,
                    actor,
                    &ttl.as_secs_f64(),
                ],
            )
            .await
            .while_trying("record a relay")?;
        Ok(())
    }

    /// Renews registrations of relays, including expired ones.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn renew_relays(&self, ids: &[Uuid], ttl: Duration) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "UPDATE bridges SET expires_at = clock_timestamp() + $2 * interval '1 second'
                 WHERE id = ANY($1)",
                &[&ids, &ttl.as_secs_f64()],
            )
            .await
            .while_trying("renew the leases of relays")?;
        Ok(())
    }

    /// Returns relays with an expired registration, at most `limit`.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn expired_relays(&self, limit: u32) -> Result<Vec<Relay>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT id, project, device, session, is_shell, actor FROM bridges
                 WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT $1",
                &[&i64::from(limit)],
            )
            .await
            .while_trying("list expired relays")?;
        rows.iter()
            .map(|row| {
                let project: &str = row.get(1);
                Ok(Relay {
                    id: row.get(0),
                    project: project
                        .parse()
                        .map_err(|error| StoreError::Corrupt(format!("bridges: {error}")))?,
                    device: DeviceId(row.get(2)),
                    session: SessionId(row.get(3)),
                    is_shell: row.get(4),
                    actor: row.get(5),
                })
            })
            .collect()
    }

    /// Returns the number of relays of a session, including expired ones.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn count_relays(&self, session: SessionId) -> Result<u64, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_one("SELECT count(*) FROM bridges WHERE session = $1", &[&session.0])
            .await
            .while_trying("count a session's relays")?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Removes a relay.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn drop_relay(&self, id: Uuid) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute("DELETE FROM bridges WHERE id = $1", &[&id])
            .await
            .while_trying("delete a relay")?;
        Ok(())
    }
}
