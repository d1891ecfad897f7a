//! Presence of devices in the log. Ingest records it; this module only reads it.

use std::collections::BTreeSet;

use async_recursion::async_recursion as boxed;
use muster_schemas::{DeviceId, Hash, ProjectId, StreamName, StreamVersion};
use tokio_postgres::Row;

use crate::error::{ErrorContext, StoreError};
use crate::integers::number;
use crate::log::EventLog;

/// Name of the lease of the process that tracks presence.
pub const PRESENCE_LEASE: &str = "presence";

impl EventLog {
    /// Returns the presence streams of a project: the device, the stream's version, and its tip,
    /// which is zero while the device is offline.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn presence(
        &self,
        project: &ProjectId,
    ) -> Result<Vec<(DeviceId, StreamVersion, Hash)>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT stream, version, tip FROM streams
                 WHERE project = $1 AND stream >= 'device-presence/' AND stream < 'device-presence0'",
                &[&project.as_str()],
            )
            .await
            .while_trying("read which devices are online")?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let device = row.get::<_, &str>(0).parse::<StreamName>().ok()?.device()?;
                let tip = row.get::<_, Option<&[u8]>>(2).and_then(Hash::from_slice);
                Some((device, number(row, 1), tip.unwrap_or(Hash::ZERO)))
            })
            .collect())
    }

    /// Returns which of these devices are online in the log.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn online(
        &self,
        project: &ProjectId,
        devices: &BTreeSet<DeviceId>,
    ) -> Result<BTreeSet<DeviceId>, StoreError> {
        let name = |device: &DeviceId| StreamName::DevicePresence(*device).to_string();
        let streams: Vec<String> = devices.iter().map(name).collect();
        let client = self.stores().pool.get().await?;
        let statement = client
            .prepare_cached(
                "SELECT stream FROM streams
                 WHERE project = $1 AND stream = ANY($2) AND tip <> $3",
            )
            .await
            .while_trying("prepare to read which devices are online")?;
        let rows = client
            .query(&statement, &[&project.as_str(), &streams, &Hash::ZERO.0.as_slice()])
            .await
            .while_trying("read which devices are online")?;
        let device = |row: &Row| row.get::<_, &str>(0).parse::<StreamName>().ok()?.device();
        Ok(rows.iter().filter_map(device).collect())
    }

    /// Whether this device is certainly offline. False while no process tracks presence, because
    /// the device may have connected since.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn is_known_offline(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<bool, StoreError> {
        let stream = StreamName::DevicePresence(device).to_string();
        let client = self.stores().pool.get().await?;
        let row = client
            .query_one(
                "SELECT EXISTS (SELECT FROM leases
                                WHERE name = $1 AND expires_at >= clock_timestamp())
                    AND NOT EXISTS (SELECT FROM streams
                                    WHERE project = $2 AND stream = $3 AND tip <> $4)",
                &[&PRESENCE_LEASE, &project.as_str(), &stream, &Hash::ZERO.0.as_slice()],
            )
            .await
            .while_trying("read whether a device is online")?;
        Ok(row.get(0))
    }
}
