//! NATS user keys that may no longer connect.

use std::time::Duration;

use muster_schemas::Timestamp;

use crate::error::{Attempted, StoreError};
use crate::log::EventLog;

impl EventLog {
    /// Notes that a user key is worth nothing from now on.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn revoke_nats_key(&self, nats_key: &str) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "INSERT INTO nats_revocations (nats_key) VALUES ($1)
                 ON CONFLICT (nats_key) DO UPDATE SET revoked_at = clock_timestamp()",
                &[&nats_key],
            )
            .await
            .attempted("revoke a NATS key")?;
        Ok(())
    }

    /// The keys that were revoked within `life`, each with the time; older ones are forgotten.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn revoked_nats_keys(
        &self,
        life: Duration,
    ) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let client = self.stores().pool.get().await?;
        let seconds = life.as_secs_f64();
        client
            .execute(
                "DELETE FROM nats_revocations
                 WHERE revoked_at < clock_timestamp() - $1 * interval '1 second'",
                &[&seconds],
            )
            .await
            .attempted("forget old revocations")?;
        let rows = client
            .query(
                "SELECT nats_key, (extract(epoch FROM revoked_at) * 1000000)::bigint
                 FROM nats_revocations ORDER BY nats_key",
                &[],
            )
            .await
            .attempted("read revocations")?;
        Ok(rows.iter().map(|row| (row.get(0), Timestamp(row.get(1)))).collect())
    }
}
