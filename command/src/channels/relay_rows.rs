//! Relays: websockets to devices, and the processes that carry them. Their registrations expire
//! like leases; unlike leases, they are never taken over, only reaped.

use std::time::Duration;

use muster_eventlog::{ErrorContext, EventLog, StoreError};
use muster_schemas::{DeviceId, ProjectId, SessionId};
use uuid::Uuid;

/// A relay: a websocket to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relay {
    /// Id of the relay.
    pub(super) id: Uuid,
    /// Project of the device.
    pub(super) project: ProjectId,
    /// Id of the device.
    pub(super) device: DeviceId,
    /// Session that it belongs to.
    pub(super) session: SessionId,
    /// Whether a client is attached to a shell by it; otherwise the session ends with it.
    pub(super) is_shell: bool,
    /// Actor that opened it.
    pub(super) actor: String,
}

/// The rows of relays, in the table `bridges`.
pub(super) struct RelayRows<'a>(pub(super) &'a EventLog);

impl RelayRows<'_> {
    /// Registers a relay of this process for the time `life`.
    pub(super) async fn put(&self, relay: &Relay, ttl: Duration) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
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
    pub(super) async fn renew(&self, ids: &[Uuid], ttl: Duration) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
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
    pub(super) async fn expired(&self, limit: u32) -> Result<Vec<Relay>, StoreError> {
        let client = self.0.stores().connection().await?;
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
    pub(super) async fn count(&self, session: SessionId) -> Result<u64, StoreError> {
        let client = self.0.stores().connection().await?;
        let row = client
            .query_one("SELECT count(*) FROM bridges WHERE session = $1", &[&session.0])
            .await
            .while_trying("count a session's relays")?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Removes a relay.
    pub(super) async fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
        client
            .execute("DELETE FROM bridges WHERE id = $1", &[&id])
            .await
            .while_trying("delete a relay")?;
        Ok(())
    }
}
