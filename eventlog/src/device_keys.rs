//! Reads of devices' signing keys, epochs and identity hints, which the append transaction
//! maintains.

use std::collections::HashMap;

use async_recursion::async_recursion as boxed;
use muster_schemas::{DeviceId, Epoch, Hash, Position, ProjectId, PublicKey, Seq, StreamName};
use uuid::Uuid;

use crate::device_effects::report_range;
use crate::error::{ErrorContext, StoreError};
use crate::integers::{as_i64, number};
use crate::log::EventLog;

/// Keys and epochs with which ingest validates a device's events.
#[derive(Clone, Debug, Default)]
pub struct DeviceAccess {
    /// Valid signing keys, by thumbprint.
    pub keys: Vec<(Hash, PublicKey)>,
    /// Granted epochs, oldest first.
    pub epochs: Vec<DeviceEpoch>,
}

/// A signing key that a device has or had.
#[derive(Clone, Debug)]
pub struct DeviceKey {
    /// Key.
    pub key: PublicKey,
    /// Signed event by which it replaced the device's previous key; `None` if the device enrolled
    /// with it.
    pub rotation: Option<Vec<u8>>,
}

/// State of one epoch of a device in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceEpoch {
    /// Number of the epoch.
    pub epoch: Epoch,
    /// Newest `seq` in the log; 0 before the first.
    pub seq: Seq,
    /// Hash of that sealed event; 32 zero bytes before the first.
    pub tip: Hash,
    /// Whether the epoch is closed: the device was deleted, or has enrolled again.
    pub is_closed: bool,
}

impl DeviceAccess {
    /// Returns the key with this thumbprint, unless it was revoked.
    #[must_use]
    pub fn key(&self, fingerprint: &Hash) -> Option<&PublicKey> {
        self.keys.iter().find(|(hash, _)| hash == fingerprint).map(|(_, key)| key)
    }

    /// Returns the state of this epoch.
    #[must_use]
    pub fn epoch(&self, epoch: Epoch) -> Option<&DeviceEpoch> {
        self.epochs.iter().find(|known| known.epoch == epoch)
    }
}

impl EventLog {
    /// Returns one page of the devices that may send events, ordered by id.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn active_devices(
        &self,
        project: &ProjectId,
        after: Option<DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT DISTINCT device FROM device_keys
                 WHERE project = $1 AND NOT revoked AND device > $2 ORDER BY device LIMIT $3",
                &[
                    &project.as_str(),
                    &after.map_or(Uuid::nil(), |device| device.0),
                    &i64::from(limit),
                ],
            )
            .await
            .while_trying("list active devices")?;
        Ok(rows.iter().map(|row| DeviceId(row.get(0))).collect())
    }

    /// Returns the current keys and epochs of devices. For an unknown device, both are empty.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn device_access(
        &self,
        project: &ProjectId,
        devices: &[DeviceId],
    ) -> Result<HashMap<DeviceId, DeviceAccess>, StoreError> {
        let mut access: HashMap<DeviceId, DeviceAccess> =
            devices.iter().map(|device| (*device, DeviceAccess::default())).collect();
        let client = self.stores().pool.get().await?;
        let ids: Vec<Uuid> = devices.iter().map(|device| device.0).collect();
        let keys = client
            .prepare_cached(
                "SELECT device, fingerprint, public_key FROM device_keys
                 WHERE project = $1 AND device = ANY($2) AND NOT revoked",
            )
            .await
            .while_trying("prepare to read devices' keys")?;
        let keys = client
            .query(&keys, &[&project.as_str(), &ids])
            .await
            .while_trying("read devices' keys")?;
        for row in &keys {
            let device = DeviceId(row.get(0));
            let fingerprint = Hash::from_slice(row.get(1))
                .ok_or_else(|| corrupt(device, "a key's fingerprint is not 32 bytes"))?;
            let key = PublicKey::from_cose_key(row.get(2))
                .map_err(|error| corrupt(device, &error.to_string()))?;
            access.entry(device).or_default().keys.push((fingerprint, key));
        }

        let (from, to): (Vec<String>, Vec<String>) =
            devices.iter().map(|device| report_range(*device)).unzip();
        let epochs = client
            .prepare_cached(
                "SELECT s.stream, s.version, s.tip, s.closed
                 FROM unnest($2::text[], $3::text[]) AS range(first, beyond)
                 CROSS JOIN LATERAL (SELECT * FROM streams
                     WHERE project = $1 AND stream >= range.first AND stream < range.beyond
                     OFFSET 0) s",
            )
            .await
            .while_trying("prepare to read devices' epochs")?;
        let epochs = client
            .query(&epochs, &[&project.as_str(), &from, &to])
            .await
            .while_trying("read devices' epochs")?;
        for row in &epochs {
            let stream: &str = row.get(0);
            let Ok(StreamName::DeviceReport(device, epoch)) = stream.parse() else {
                return Err(StoreError::Corrupt(format!(
                    "'{stream}' is not a stream of device reports"
                )));
            };
            access.entry(device).or_default().epochs.push(DeviceEpoch {
                epoch,
                seq: number(row, 1),
                tip: row
                    .get::<_, Option<&[u8]>>(2)
                    .and_then(Hash::from_slice)
                    .unwrap_or(Hash::ZERO),
                is_closed: row.get(3),
            });
        }
        for known in access.values_mut() {
            known.epochs.sort_by_key(|epoch| epoch.epoch);
        }
        Ok(access)
    }

    /// Returns a previous, revoked key of the device.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn previous_key(
        &self,
        project: &ProjectId,
        device: DeviceId,
        fingerprint: Hash,
    ) -> Result<Option<PublicKey>, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt(
                "SELECT public_key FROM device_keys
                 WHERE project = $1 AND device = $2 AND fingerprint = $3 AND revoked",
                &[&project.as_str(), &device.0, &fingerprint.0.as_slice()],
            )
            .await
            .while_trying("look up a device's previous key")?;
        row.map(|row| PublicKey::from_cose_key(row.get(0)))
            .transpose()
            .map_err(|error| corrupt(device, &error.to_string()))
    }

    /// Returns all keys that the device has or had, revoked ones included.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn key_history(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<Vec<DeviceKey>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT k.public_key, e.record FROM device_keys k
                 LEFT JOIN events e
                     ON e.project = k.project AND e.position = k.rotation_position
                 WHERE k.project = $1 AND k.device = $2",
                &[&project.as_str(), &device.0],
            )
            .await
            .while_trying("read a device's previous keys")?;
        rows.iter()
            .map(|row| {
                let key = PublicKey::from_cose_key(row.get(0))
                    .map_err(|error| corrupt(device, &error.to_string()))?;
                Ok(DeviceKey { key, rotation: row.get(1) })
            })
            .collect()
    }

    /// Finds the events of rotations that the table of keys does not name, because a process of an
    /// earlier release has appended them, after one position and up to another, and records their
    /// positions.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn find_rotations(
        &self,
        project: &ProjectId,
        after: Position,
        until: Position,
    ) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "UPDATE device_keys k SET rotation_position = e.position FROM events e
                 WHERE k.project = $1 AND k.rotation_position IS NULL
                   AND e.project = $1 AND e.position > $2 AND e.position <= $3
                   AND e.type = 'DeviceKeyRotated'
                   AND e.stream = 'device-report/' || k.device || '/' || k.epoch
                   AND position(k.public_key IN e.record) > 0",
                &[&project.as_str(), &as_i64(after), &as_i64(until)],
            )
            .await
            .while_trying("find the rotations of devices' keys")
            .map(drop)
    }

    /// Returns the device that was registered with this key; the first, if there are several.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn device_registered_with_key(
        &self,
        project: &ProjectId,
        fingerprint: Hash,
    ) -> Result<Option<DeviceId>, StoreError> {
        self.device_with_hint(project, "key", fingerprint).await
    }

    /// Returns the devices that have or had this signing key.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn devices_with_key(
        &self,
        project: &ProjectId,
        fingerprint: Hash,
    ) -> Result<Vec<DeviceId>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT device FROM device_keys WHERE project = $1 AND fingerprint = $2",
                &[&project.as_str(), &fingerprint.0.as_slice()],
            )
            .await
            .while_trying("look up the devices of a key")?;
        Ok(rows.iter().map(|row| DeviceId(row.get(0))).collect())
    }

    /// Returns the device that enrolled with this machine id and was not deleted; the first, if
    /// there are several. Otherwise the first that enrolled with one of these network cards.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn similar_device(
        &self,
        project: &ProjectId,
        machine: Option<Hash>,
        macs: &[Hash],
    ) -> Result<Option<DeviceId>, StoreError> {
        let hints = machine.map(|machine| ("machine", machine));
        for (kind, hint) in hints.into_iter().chain(macs.iter().map(|mac| ("mac", *mac))) {
            if let Some(device) = self.device_with_hint(project, kind, hint).await? {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    async fn device_with_hint(
        &self,
        project: &ProjectId,
        kind: &str,
        hint: Hash,
    ) -> Result<Option<DeviceId>, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt(
                "SELECT device FROM device_marks WHERE project = $1 AND kind = $2 AND mark = $3
                 ORDER BY device LIMIT 1",
                &[&project.as_str(), &kind, &hint.0.as_slice()],
            )
            .await
            .while_trying("look up a device by its identity hint")?;
        Ok(row.map(|row| DeviceId(row.get(0))))
    }
}

fn corrupt(device: DeviceId, problem: &str) -> StoreError {
    StoreError::Corrupt(format!("device {device}: {problem}"))
}
