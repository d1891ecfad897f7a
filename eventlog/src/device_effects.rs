//! Effects of events on devices' keys, epochs and identity hints. The append transaction itself
//! applies them, so that ingest does not depend on a projection.

use muster_schemas::events::DeviceEnrolled;
use muster_schemas::{DeviceId, Epoch, Event, Hash, Position, PublicKey, StreamName};
use tokio_postgres::Client;

use crate::error::{ErrorContext, StoreError};
use crate::integers::as_i64;

/// Whether the append transaction must apply this event.
pub(crate) const fn has_effect(event: &Event) -> bool {
    match event {
        Event::DeviceRegistered(registered) => registered.fingerprint.is_some(),
        Event::DeviceEnrolled(_)
        | Event::DeviceEpochGranted(_)
        | Event::DeviceKeyRotated(_)
        | Event::DeviceRevoked(_)
        | Event::DeviceDeleted(_) => true,
        _ => false,
    }
}

/// Applies an event inside the transaction of `client` that appends it at `position`.
pub(crate) async fn apply(
    client: &Client,
    project: &str,
    position: Position,
    stream: &StreamName,
    event: &Event,
) -> Result<(), StoreError> {
    let Some(device) = stream.device() else {
        return Ok(());
    };
    match event {
        Event::DeviceRegistered(registered) => {
            set_identity_hint(client, project, device, "key", registered.fingerprint).await
        }
        Event::DeviceEnrolled(enrolled) => {
            set_identity_hint(client, project, device, "machine", enrolled.machine).await?;
            for mac in &enrolled.macs {
                set_identity_hint(client, project, device, "mac", Some(*mac)).await?;
            }
            close_epochs(client, project, device, &enrolled.nats_key).await?;
            bind_key(client, project, device, enrolled).await?;
            open_epoch(client, project, device, enrolled.epoch).await
        }
        Event::DeviceEpochGranted(granted) => {
            open_epoch(client, project, device, granted.epoch).await
        }
        Event::DeviceKeyRotated(rotated) => {
            let StreamName::DeviceReport(_, epoch) = stream else {
                return Ok(());
            };
            let key = PublicKey::from_cose_key(&rotated.signing_key)
                .map_err(|error| StoreError::Corrupt(format!("rotation of {device}: {error}")))?;
            let rotation = Rotation {
                fingerprint: key.thumbprint(),
                key: &rotated.signing_key,
                epoch: *epoch,
                position,
            };
            rotate_key(client, project, device, &rotation).await
        }
        Event::DeviceRevoked(_) => close_epochs(client, project, device, "").await,
        Event::DeviceDeleted(_) => {
            client
                .execute(
                    "DELETE FROM device_marks WHERE project = $1 AND device = $2",
                    &[&project, &device.0],
                )
                .await
                .while_trying("delete a device's identity hints")?;
            close_epochs(client, project, device, "").await
        }
        _ => Ok(()),
    }
}

async fn set_identity_hint(
    client: &Client,
    project: &str,
    device: DeviceId,
    kind: &str,
    hint: Option<Hash>,
) -> Result<(), StoreError> {
    let Some(hint) = hint else { return Ok(()) };
    client
        .execute(
            "INSERT INTO device_marks (project, kind, mark, device) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[&project, &kind, &hint.0.as_slice(), &device.0],
        )
        .await
        .while_trying("record a device's identity hint")?;
    Ok(())
}

async fn bind_key(
    client: &Client,
    project: &str,
    device: DeviceId,
    enrolled: &DeviceEnrolled,
) -> Result<(), StoreError> {
    let DeviceEnrolled { fingerprint, signing_key, epoch, nats_key, .. } = enrolled;
    client
        .execute(
            "INSERT INTO device_keys (project, device, fingerprint, public_key, epoch, nats_key)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (project, device, fingerprint) DO UPDATE
             SET revoked = false, epoch = excluded.epoch, nats_key = excluded.nats_key,
                 rotation_position = NULL",
            &[
                &project,
                &device.0,
                &fingerprint.0.as_slice(),
                signing_key,
                &as_i64(*epoch),
                nats_key,
            ],
        )
        .await
        .while_trying("bind a device's key")?;
    Ok(())
}

/// The rotation of a signing key.
struct Rotation<'a> {
    fingerprint: Hash,
    /// New key, a COSE_Key.
    key: &'a [u8],
    epoch: Epoch,
    /// Position of the event that rotates it.
    position: Position,
}

/// Replaces the signing key; the NATS key of the device is kept.
async fn rotate_key(
    client: &Client,
    project: &str,
    device: DeviceId,
    rotation: &Rotation<'_>,
) -> Result<(), StoreError> {
    let old = client
        .query(
            "UPDATE device_keys SET revoked = true
             WHERE project = $1 AND device = $2 AND NOT revoked RETURNING nats_key",
            &[&project, &device.0],
        )
        .await
        .while_trying("revoke a device's old key")?;
    let nats_key: Option<&str> = old.iter().find_map(|row| row.get(0));
    client
        .execute(
            "INSERT INTO device_keys
                 (project, device, fingerprint, public_key, epoch, nats_key, rotation_position)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (project, device, fingerprint) DO UPDATE
             SET revoked = false, epoch = excluded.epoch, nats_key = excluded.nats_key,
                 rotation_position = excluded.rotation_position",
            &[
                &project,
                &device.0,
                &rotation.fingerprint.0.as_slice(),
                &rotation.key,
                &as_i64(rotation.epoch),
                &nats_key,
                &as_i64(rotation.position),
            ],
        )
        .await
        .while_trying("rotate a device's key")?;
    Ok(())
}

async fn open_epoch(
    client: &Client,
    project: &str,
    device: DeviceId,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let stream = StreamName::DeviceReport(device, epoch).to_string();
    client
        .execute(
            "INSERT INTO streams (project, stream, version, tip) VALUES ($1, $2, 0, $3)",
            &[&project, &stream, &Hash::ZERO.0.as_slice()],
        )
        .await
        .while_trying("open an epoch of a device")?;
    Ok(())
}

/// Revokes all previous keys, except the NATS key `kept`, and closes all previous epochs.
async fn close_epochs(
    client: &Client,
    project: &str,
    device: DeviceId,
    kept_nats_key: &str,
) -> Result<(), StoreError> {
    client
        .execute(
            "WITH old AS (
                 UPDATE device_keys SET revoked = true
                 WHERE project = $1 AND device = $2 AND NOT revoked RETURNING nats_key
             )
             INSERT INTO nats_revocations (nats_key)
             SELECT DISTINCT nats_key FROM old WHERE nats_key <> $3
             ON CONFLICT (nats_key) DO UPDATE SET revoked_at = clock_timestamp()",
            &[&project, &device.0, &kept_nats_key],
        )
        .await
        .while_trying("revoke a device's keys")?;
    let (prefix, end) = report_range(device);
    client
        .execute(
            "UPDATE streams SET closed = true WHERE project = $1 AND stream >= $2 AND stream < $3",
            &[&project, &prefix, &end],
        )
        .await
        .while_trying("close a device's epochs")?;
    Ok(())
}

/// Returns the range of this device's report streams: '0' follows '/' in the C collation.
pub(crate) fn report_range(device: DeviceId) -> (String, String) {
    (StreamName::report_prefix(device), format!("device-report/{device}0"))
}
