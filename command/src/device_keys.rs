//! Signing keys of devices, as far as their events grant them.
//!
//! Ingest maintains the table of keys, so a row of it proves nothing: ingest's database user can
//! write one. Command accepts a key only if the device enrolled with it, which an event with
//! a proof of authority states, or if a chain of rotations, each signed with the previous key, leads
//! from that key to it (docs/decisions/0030).

use std::collections::HashMap;
use std::sync::Arc;

use muster_eventlog::{DeviceAccess, DeviceKey};
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::envelope::parse_sealed;
use muster_schemas::{DeviceId, Event, Hash, Position, ProjectId, PublicKey, StreamName};
use parking_lot::{Mutex, MutexGuard};

use crate::domain::Rejection;
use crate::domain::device::Device;
use crate::error::CommandError;
use crate::executor::Executor;

/// Maximum number of rotated keys that are remembered as granted; beyond it, all are verified again.
const MAX_REMEMBERED_KEYS: usize = 100_000;

/// Number of events that one statement searches for rotations.
const EVENTS_PER_SEARCH: u64 = 200_000;

/// Reads the keys of devices; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DeviceKeys {
    executor: Executor,
    granted: Arc<Mutex<GrantedKeys>>,
    /// Position up to which each log was searched for rotations.
    searched: Arc<tokio::sync::Mutex<HashMap<ProjectId, Position>>>,
}

/// Rotated keys that were granted, by device: the key with which the device enrolled, and the
/// current one.
type GrantedKeys = HashMap<(ProjectId, DeviceId), (Hash, Hash)>;

/// A device with its keys and epochs.
#[derive(Debug)]
pub(crate) struct KnownDevice {
    pub(crate) state: Device,
    pub(crate) access: DeviceAccess,
}

/// A message that claims to be from a device.
#[derive(Debug)]
pub(crate) enum Verified {
    /// It is signed with the device's current key.
    Genuine {
        /// The device.
        device: Box<KnownDevice>,
        /// Its key.
        key: PublicKey,
        /// Content of the message.
        content: Vec<u8>,
    },
    /// It names a key that the device does not have.
    UnknownKey {
        /// The message.
        message: Box<Unverified>,
        /// Keys and epochs of the device, as the table has them.
        access: DeviceAccess,
    },
}

impl KnownDevice {
    /// Returns the key with which the device signs.
    pub(crate) fn signing_key(&self) -> Result<&PublicKey, Rejection> {
        let key = self.access.keys.first();
        key.map(|(_, key)| key).ok_or(Rejection::NotFound("key of the device"))
    }
}

impl DeviceKeys {
    pub(crate) fn new(executor: Executor) -> Self {
        Self { executor, granted: Arc::default(), searched: Arc::default() }
    }

    /// Returns a device with those of its keys that its events grant, and its epochs. A device that
    /// does not exist, or is revoked, has no keys.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) async fn load(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<KnownDevice, CommandError> {
        let access = self.access(project, device).await?;
        self.check(project, device, access).await
    }

    /// Verifies a message that a device has signed with its current key; returns the device, the key
    /// and the content. A message of another sender costs one query and one signature.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) async fn verify(
        &self,
        project: &ProjectId,
        device: DeviceId,
        message: Unverified,
        kind: Kind,
    ) -> Result<Verified, CommandError> {
        let access = self.access(project, device).await?;
        let kid = message.kid();
        let Some(key) = access.key(&kid).copied() else {
            return Ok(Verified::UnknownKey { message: Box::new(message), access });
        };
        let content = match message.verify(kind, &key) {
            Ok(content) => content,
            Err(error) => return Err(CommandError::IdentityNotProven(error.to_string())),
        };
        let device = self.check(project, device, access).await?;
        if device.access.key(&kid).is_none() {
            let problem = "no event of the device grants this key".to_owned();
            return Err(CommandError::IdentityNotProven(problem));
        }
        Ok(Verified::Genuine { device: Box::new(device), key, content })
    }

    async fn access(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<DeviceAccess, CommandError> {
        let mut access = self.executor.log.device_access(project, &[device]).await?;
        Ok(access.remove(&device).unwrap_or_default())
    }

    async fn check(
        &self,
        project: &ProjectId,
        device: DeviceId,
        access: DeviceAccess,
    ) -> Result<KnownDevice, CommandError> {
        let (known, ignored) = self.keep_granted(project, device, access, false).await?;
        if ignored.is_empty() {
            return Ok(known);
        }
        // The device may have enrolled, or was revoked, between the two reads; or a process of an
        // earlier release has recorded a rotation, which is found in the log.
        let access = self.access(project, device).await?;
        let (known, ignored) = self.keep_granted(project, device, access, true).await?;
        for fingerprint in ignored {
            tracing::error!(
                %project, %device, %fingerprint,
                "a key of a device is in the table of keys, but no event grants it; it is \
                 ignored. Someone may have written to the database: see docs/security.md"
            );
        }
        Ok(known)
    }

    /// Returns also the fingerprints of keys in the table that no event grants. `searches`: whether
    /// rotations that the table does not name are searched in the log.
    async fn keep_granted(
        &self,
        project: &ProjectId,
        device: DeviceId,
        mut access: DeviceAccess,
        searches: bool,
    ) -> Result<(KnownDevice, Vec<Hash>), CommandError> {
        let state = self.executor.load::<Device>(project, &StreamName::Device(device)).await?.state;
        let enrolled = state.fingerprint.filter(|_| state.exists() && !state.is_revoked);
        let (mut granted, mut ignored) = (Vec::new(), Vec::new());
        for (fingerprint, key) in access.keys {
            let is_granted = match enrolled {
                Some(enrolled) => self.grants((project, device), enrolled, &key, searches).await?,
                None => false,
            };
            if is_granted {
                granted.push((key.thumbprint(), key));
            } else {
                ignored.push(fingerprint);
            }
        }
        access.keys = granted;
        Ok((KnownDevice { state, access }, ignored))
    }

    async fn grants(
        &self,
        (project, device): (&ProjectId, DeviceId),
        enrolled: Hash,
        key: &PublicKey,
        searches: bool,
    ) -> Result<bool, CommandError> {
        let fingerprint = key.thumbprint();
        if fingerprint == enrolled {
            return Ok(true);
        }
        let owner = (project.clone(), device);
        let remembered = self.granted().get(&owner).copied();
        if remembered == Some((enrolled, fingerprint)) {
            return Ok(true);
        }
        if searches {
            self.find_rotations(project).await?;
        }
        let history = self.executor.log.key_history(project, device).await?;
        let is_granted = is_rotated_from(enrolled, fingerprint, &history, (project, device));
        if is_granted {
            let mut granted = self.granted();
            if granted.len() >= MAX_REMEMBERED_KEYS {
                granted.clear();
            }
            granted.insert(owner, (enrolled, fingerprint));
        }
        Ok(is_granted)
    }

    /// Searches the events that were not searched yet for rotations that the table of keys does not
    /// name. One search at a time, so that it occupies one connection.
    async fn find_rotations(&self, project: &ProjectId) -> Result<(), CommandError> {
        let mut searched = self.searched.lock().await;
        let Some(head) = self.executor.log.head(project).await? else { return Ok(()) };
        let searched = searched.entry(project.clone()).or_default();
        if *searched > head.position {
            // The log was restored.
            *searched = Position::ZERO;
        }
        while *searched < head.position {
            let until = head.position.min(*searched + EVENTS_PER_SEARCH);
            self.executor.log.find_rotations(project, *searched, until).await?;
            *searched = until;
        }
        Ok(())
    }

    fn granted(&self) -> MutexGuard<'_, GrantedKeys> {
        self.granted.lock()
    }
}

/// Whether a chain of rotations, each signed with the previous key, leads from the key with which
/// the device enrolled to this one.
fn is_rotated_from(
    enrolled: Hash,
    fingerprint: Hash,
    history: &[DeviceKey],
    owner: (&ProjectId, DeviceId),
) -> bool {
    // By their thumbprints, which a row cannot forge.
    let keys: HashMap<Hash, &DeviceKey> =
        history.iter().map(|known| (known.key.thumbprint(), known)).collect();
    let mut current = fingerprint;
    for _ in 0..keys.len() {
        if current == enrolled {
            return true;
        }
        let Some(previous) = previous_key(current, &keys, owner) else { return false };
        current = previous;
    }
    current == enrolled
}

/// Returns the key that has signed the rotation to this one.
fn previous_key(
    current: Hash,
    keys: &HashMap<Hash, &DeviceKey>,
    (project, device): (&ProjectId, DeviceId),
) -> Option<Hash> {
    let (message, envelope) = parse_sealed(keys.get(&current)?.rotation.as_deref()?).ok()?;
    let signer = message.kid();
    message.verify(Kind::Event, &keys.get(&signer)?.key).ok()?;
    if (&envelope.project, envelope.device) != (project, device) {
        return None;
    }
    match Event::decode(&envelope.kind, envelope.version, &envelope.data).ok()? {
        Event::DeviceKeyRotated(rotated) => {
            let key = PublicKey::from_cose_key(&rotated.signing_key).ok()?;
            (key.thumbprint() == current).then_some(signer)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::DeviceKeyRotated;
    use muster_schemas::{DeviceEnvelope, SigningKey, Timestamp, codec};
    use muster_schemas::{Epoch, Seq};
    use uuid::Uuid;

    use super::*;

    const DEVICE: DeviceId = DeviceId(Uuid::from_u128(1));

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    /// The event by which `old` rotates to `new`, signed by `signer`.
    fn rotation(device: DeviceId, old: u8, new: u8, signer: u8) -> Vec<u8> {
        let statement = codec::encode(&(device, 1_u64, key(old).thumbprint()));
        let event: Event = DeviceKeyRotated {
            signing_key: key(new).public().to_cose_key(),
            proof: key(new).seal(Kind::Rotation, statement),
        }
        .into();
        DeviceEnvelope {
            project: ProjectId::default_project(),
            device,
            epoch: Epoch::FIRST,
            seq: Seq(7),
            prev: Hash::ZERO,
            boot: Uuid::nil(),
            mono: 0,
            time: Timestamp(0),
            kind: event.kind().to_owned(),
            version: event.version(),
            data: event.encode(),
        }
        .seal(&key(signer))
    }

    fn row(seed: u8, rotation: Option<Vec<u8>>) -> DeviceKey {
        DeviceKey { key: key(seed).public(), rotation }
    }

    /// Whether the device that enrolled with key 1 has this key.
    fn has(seed: u8, history: &[DeviceKey]) -> bool {
        let project = ProjectId::default_project();
        is_rotated_from(key(1).thumbprint(), key(seed).thumbprint(), history, (&project, DEVICE))
    }

    #[test]
    fn a_chain_of_rotations_grants_a_key() {
        let history = [
            row(3, Some(rotation(DEVICE, 2, 3, 2))),
            row(1, None),
            row(2, Some(rotation(DEVICE, 1, 2, 1))),
        ];
        assert!(has(1, &history) && has(2, &history) && has(3, &history));
        // The device may return to an earlier key.
        let returned = [row(1, Some(rotation(DEVICE, 2, 1, 2))), history[2].clone()];
        assert!(has(1, &returned) && has(2, &[history[1].clone(), history[2].clone()]));
    }

    #[test]
    fn a_key_that_no_event_grants_is_rejected() {
        let other = DeviceId(Uuid::from_u128(2));
        let forged = [
            // A row alone, or one that claims to be an enrolled key.
            vec![row(1, None), row(9, None)],
            // Signed by itself, by a key that is not the device's, or damaged.
            vec![row(1, None), row(9, Some(rotation(DEVICE, 1, 9, 9)))],
            vec![row(1, None), row(8, None), row(9, Some(rotation(DEVICE, 8, 9, 8)))],
            vec![row(1, None), row(9, Some(b"junk".to_vec()))],
            // Signed by the device's key, but for another key or another device.
            vec![row(1, None), row(9, Some(rotation(DEVICE, 1, 2, 1)))],
            vec![row(1, None), row(9, Some(rotation(other, 1, 9, 1)))],
            // Two keys that grant each other.
            vec![
                row(1, None),
                row(8, Some(rotation(DEVICE, 9, 8, 9))),
                row(9, Some(rotation(DEVICE, 8, 9, 8))),
            ],
            // The previous key is missing.
            vec![row(9, Some(rotation(DEVICE, 1, 9, 1)))],
        ];
        for (case, history) in forged.iter().enumerate() {
            assert!(!has(9, history), "case {case}");
        }
    }
}
