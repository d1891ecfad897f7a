//! The keys that devices sign with, and the epochs they may write: kept by the append transaction
//! itself, so that ingest never has to wait for a projection to know a device.

use muster_schemas::events::DeviceEnrolled;
use muster_schemas::{DeviceId, Event, Hash, ProjectId, PublicKey, StreamName};
use tokio_postgres::Transaction;

use crate::error::{Attempted, StoreError};
use crate::log::EventLog;

/// What ingest must know of a device to take its events.
#[derive(Clone, Debug, Default)]
pub struct DeviceAccess {
    /// The keys that may sign, by thumbprint.
    pub keys: Vec<(Hash, PublicKey)>,
    /// The epochs that were given, the oldest first.
    pub epochs: Vec<DeviceEpoch>,
}

/// Where the log stands in one epoch of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceEpoch {
    /// The epoch.
    pub epoch: u64,
    /// The newest `seq` in the log; 0 before the first.
    pub seq: u64,
    /// The hash of that sealed event; 32 zero bytes before the first.
    pub tip: Hash,
    /// True when no more events are taken: the device was deleted, or enrolled again.
    pub closed: bool,
}

impl DeviceAccess {
    /// The key with this thumbprint, unless it was revoked.
    #[must_use]
    pub fn key(&self, fingerprint: &Hash) -> Option<&PublicKey> {
        self.keys.iter().find(|(hash, _)| hash == fingerprint).map(|(_, key)| key)
    }

    /// Where the log stands in this epoch.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> Option<&DeviceEpoch> {
        self.epochs.iter().find(|known| known.epoch == epoch)
    }
}

/// Must the append transaction act on this event?
pub(crate) const fn has_effect(event: &Event) -> bool {
    matches!(
        event,
        Event::DeviceEnrolled(_)
            | Event::DeviceEpochGranted(_)
            | Event::DeviceKeyRotated(_)
            | Event::DeviceDeleted(_)
    )
}

/// Acts on an event in the transaction that appends it.
pub(crate) async fn apply(
    transaction: &Transaction<'_>,
    project: &str,
    stream: &StreamName,
    event: &Event,
) -> Result<(), StoreError> {
    let Some(device) = stream.device() else {
        return Ok(());
    };
    match event {
        Event::DeviceEnrolled(enrolled) => {
            close_epochs(transaction, project, device).await?;
            bind_key(transaction, project, device, enrolled).await?;
            open_epoch(transaction, project, device, enrolled.epoch).await
        }
        Event::DeviceEpochGranted(granted) => {
            open_epoch(transaction, project, device, granted.epoch).await
        }
        Event::DeviceKeyRotated(rotated) => {
            let StreamName::DeviceReport(_, epoch) = stream else {
                return Ok(());
            };
            let key = PublicKey::from_cose_key(&rotated.signing_key)
                .map_err(|error| StoreError::Corrupt(format!("rotation of {device}: {error}")))?;
            revoke_keys(transaction, project, device).await?;
            insert_key(transaction, project, device, key.thumbprint(), &rotated.signing_key, *epoch)
                .await
        }
        Event::DeviceDeleted(_) => close_epochs(transaction, project, device).await,
        _ => Ok(()),
    }
}

async fn bind_key(
    transaction: &Transaction<'_>,
    project: &str,
    device: DeviceId,
    enrolled: &DeviceEnrolled,
) -> Result<(), StoreError> {
    let DeviceEnrolled { fingerprint, signing_key, epoch, .. } = enrolled;
    insert_key(transaction, project, device, *fingerprint, signing_key, *epoch).await
}

async fn insert_key(
    transaction: &Transaction<'_>,
    project: &str,
    device: DeviceId,
    fingerprint: Hash,
    key: &[u8],
    epoch: u64,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO device_keys (project, device, fingerprint, public_key, epoch)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (project, device, fingerprint)
             DO UPDATE SET revoked = false, epoch = excluded.epoch",
            &[&project, &device.0, &fingerprint.0.as_slice(), &key, &as_i64(epoch)],
        )
        .await
        .attempted("bind a device's key")?;
    Ok(())
}

async fn open_epoch(
    transaction: &Transaction<'_>,
    project: &str,
    device: DeviceId,
    epoch: u64,
) -> Result<(), StoreError> {
    let stream = StreamName::DeviceReport(device, epoch).to_string();
    transaction
        .execute(
            "INSERT INTO streams (project, stream, version, tip) VALUES ($1, $2, 0, $3)",
            &[&project, &stream, &Hash::ZERO.0.as_slice()],
        )
        .await
        .attempted("open a device's epoch")?;
    Ok(())
}

async fn revoke_keys(
    transaction: &Transaction<'_>,
    project: &str,
    device: DeviceId,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "UPDATE device_keys SET revoked = true WHERE project = $1 AND device = $2",
            &[&project, &device.0],
        )
        .await
        .attempted("revoke a device's keys")?;
    Ok(())
}

/// No key of before may sign any more, and no epoch of before takes another event.
async fn close_epochs(
    transaction: &Transaction<'_>,
    project: &str,
    device: DeviceId,
) -> Result<(), StoreError> {
    revoke_keys(transaction, project, device).await?;
    let prefix = StreamName::report_prefix(device);
    // '0' follows '/' in the C collation: the range holds all that begins with the prefix.
    let end = format!("device-report/{device}0");
    transaction
        .execute(
            "UPDATE streams SET closed = true WHERE project = $1 AND stream >= $2 AND stream < $3",
            &[&project, &prefix, &end],
        )
        .await
        .attempted("close a device's epochs")?;
    Ok(())
}

/// PostgreSQL's integers have a sign; epochs and versions were held to 63 bits where they came in.
pub(crate) fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl EventLog {
    /// Keys and epochs of a device, as the log has them now. Empty for a device it does not know.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn device_access(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<DeviceAccess, StoreError> {
        let client = self.stores().pool.get().await?;
        let keys = client
            .query(
                "SELECT fingerprint, public_key FROM device_keys
                 WHERE project = $1 AND device = $2 AND NOT revoked",
                &[&project.as_str(), &device.0],
            )
            .await
            .attempted("read a device's keys")?;
        let prefix = StreamName::report_prefix(device);
        let end = format!("device-report/{device}0");
        let epochs = client
            .query(
                "SELECT stream, version, tip, closed FROM streams
                 WHERE project = $1 AND stream >= $2 AND stream < $3",
                &[&project.as_str(), &prefix, &end],
            )
            .await
            .attempted("read a device's epochs")?;

        let corrupt = |what: &str| StoreError::Corrupt(format!("device {device}: {what}"));
        let keys = keys
            .iter()
            .map(|row| {
                let fingerprint = Hash::from_slice(row.get(0))
                    .ok_or_else(|| corrupt("a key's fingerprint is not 32 bytes"))?;
                let key = PublicKey::from_cose_key(row.get(1))
                    .map_err(|error| corrupt(&error.to_string()))?;
                Ok((fingerprint, key))
            })
            .collect::<Result<_, StoreError>>()?;
        let mut epochs: Vec<DeviceEpoch> = epochs
            .iter()
            .map(|row| {
                let stream: &str = row.get(0);
                let Ok(StreamName::DeviceReport(_, epoch)) = stream.parse() else {
                    return Err(corrupt("a report stream has an odd name"));
                };
                Ok(DeviceEpoch {
                    epoch,
                    seq: row.get::<_, i64>(1).unsigned_abs(),
                    tip: row
                        .get::<_, Option<&[u8]>>(2)
                        .and_then(Hash::from_slice)
                        .unwrap_or(Hash::ZERO),
                    closed: row.get(3),
                })
            })
            .collect::<Result<_, StoreError>>()?;
        epochs.sort_by_key(|epoch| epoch.epoch);
        Ok(DeviceAccess { keys, epochs })
    }
}
