//! Hello and welcome: a device reports its position and receives that of the log; on request it
//! continues in a new epoch.

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use muster_eventlog::{DeviceAccess, DeviceEpoch};
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::events::Cause;
use muster_schemas::wire::{Hello, NewEpoch, Welcome};
use muster_schemas::{DeviceId, Epoch, Event, Hash, ProjectId, Seq, StreamName, codec};
use uuid::Uuid;

use super::catch_up::is_caught_up;
use super::epoch_limit::EpochLimit;
use crate::clock::now;
use crate::device_keys::{DeviceKeys, KnownDevice, Verified};
use crate::domain::device::{Device, DeviceCommand, ForkPoint};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::{Executor, until_appended};
use crate::keys::KeyStore;
use crate::request::Request;

/// Maximum number by which a device's epoch may be ahead of the known ones: epochs that were
/// granted after the backup from which this log was restored.
const MAX_EPOCHS_AHEAD: u64 = 1_000_000;

/// Responds to the hellos of devices.
#[derive(Clone, Debug)]
pub struct Hellos {
    executor: Executor,
    keys: Arc<KeyStore>,
    device_keys: DeviceKeys,
    /// Connection to the servers' account.
    nats: async_nats::Client,
    epoch_limit: Arc<EpochLimit>,
}

impl Hellos {
    pub(crate) fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        nats: async_nats::Client,
    ) -> Self {
        Self { executor, keys, device_keys, nats, epoch_limit: Arc::default() }
    }

    /// Returns the signed welcome for a hello.
    ///
    /// # Errors
    /// When the hello is not from this device, the device is not known, or the log cannot be read.
    #[boxed]
    pub async fn welcome(
        &self,
        project: &ProjectId,
        device: DeviceId,
        sealed: &[u8],
    ) -> Result<Vec<u8>, CommandError> {
        let unproved = |what: String| CommandError::IdentityNotProven(what);
        let message = Unverified::parse(sealed).map_err(|error| unproved(error.to_string()))?;
        let verified = self.device_keys.verify(project, device, message, Kind::Hello).await?;
        let (known, key, content) = match verified {
            Verified::Genuine { device, key, content } => (device, key, content),
            Verified::UnknownKey { message, access } => {
                return Err(self.unknown_key_error(project, device, *message, &access).await?);
            }
        };
        let KnownDevice { state, access } = *known;
        let hello: Hello = codec::decode(&content).map_err(|error| unproved(error.to_string()))?;
        if (&hello.project, hello.device) != (project, device) {
            return Err(unproved("the hello names another device".into()));
        }
        // Only a log that is behind may still have to read some of the device's events.
        let is_behind = access
            .epoch(hello.epoch)
            .is_none_or(|epoch| hello.confirmed_seq.is_some_and(|seq| seq > epoch.seq));
        let (access, has_caught_up) = if is_behind {
            let has_caught_up = is_caught_up(&self.executor.log, &self.nats, project, device).await;
            // Read after the broker's state, so that it contains all that was caught up with.
            let mut newer = self.executor.log.device_access(project, &[device]).await?;
            (newer.remove(&device).unwrap_or_default(), has_caught_up)
        } else {
            (access, None)
        };
        let newest = access.epochs.last().map_or(Epoch::ZERO, |epoch| epoch.epoch);
        if !(Epoch::FIRST..=newest + MAX_EPOCHS_AHEAD).contains(&hello.epoch) {
            return Err(unproved(format!("epoch {} was never assigned to it", hello.epoch)));
        }
        // An unknown epoch was granted after the backup from which this log was restored: the
        // device receives the newest one, and requests another.
        let position = access.epoch(hello.epoch).or_else(|| access.epochs.last()).copied();
        let position = position
            .filter(|epoch| !epoch.is_closed)
            .ok_or_else(|| unproved("the device has no open epoch".into()))?;

        let position = match &hello.new_epoch {
            None => position,
            Some(requested) => {
                let logged = (requested.seq == position.seq).then_some(position.tip);
                let epoch =
                    self.grant_epoch(project, device, hello.epoch, requested, logged).await?;
                self.position_in(project, device, epoch).await?
            }
        };
        let version = state.config_version;
        let config = self.keys.config_for_device(project, device, version, state.config, &key)?;
        let welcome = Welcome {
            project: project.clone(),
            device,
            epoch: position.epoch,
            nonce: hello.nonce,
            time: now(),
            committed_seq: position.seq,
            committed_hash: position.tip,
            config_version: version,
            config: config.plain,
            sealed_config: config.sealed,
            is_caught_up: has_caught_up,
        };
        let key = self.keys.operation_key(project)?;
        Ok(key.seal(Kind::Welcome, codec::encode(&welcome)))
    }

    /// Returns the position of a granted epoch: the request may be a repeated one.
    async fn position_in(
        &self,
        project: &ProjectId,
        device: DeviceId,
        epoch: Epoch,
    ) -> Result<DeviceEpoch, CommandError> {
        let access = self.executor.log.device_access(project, &[device]).await?;
        let position = access.get(&device).and_then(|access| access.epoch(epoch)).copied();
        Ok(position.unwrap_or(DeviceEpoch {
            epoch,
            seq: Seq::ZERO,
            tip: Hash::ZERO,
            is_closed: false,
        }))
    }

    /// Returns the error for a hello by a key that is not the device's. If it is a previous key and
    /// the sender is behind the log, it is an old copy of the device's data folder: that is
    /// recorded once for each key.
    async fn unknown_key_error(
        &self,
        project: &ProjectId,
        device: DeviceId,
        message: Unverified,
        access: &DeviceAccess,
    ) -> Result<CommandError, CommandError> {
        let kid = message.kid();
        let unproved = CommandError::IdentityNotProven("the device has no such key".into());
        let Some(key) = self.executor.log.previous_key(project, device, kid).await? else {
            return Ok(unproved);
        };
        let hello = message.verify(Kind::Hello, &key).ok();
        let Some(hello) = hello.and_then(|bytes| codec::decode::<Hello>(&bytes).ok()) else {
            return Ok(unproved);
        };
        // The device itself may use the previous key for a moment longer, but it is not behind the
        // log.
        let is_behind = access
            .epoch(hello.epoch)
            .is_some_and(|epoch| !epoch.is_closed && hello.last_seq < epoch.seq);
        if (&hello.project, hello.device) != (project, device) || !is_behind {
            return Ok(unproved);
        }
        let request = Request::unconditional(
            project.clone(),
            format!("device:{device}"),
            copy_id(device, kid),
        );
        if self.executor.first_result(&request).await?.is_none() {
            let stream = StreamName::Device(device);
            until_appended(|| async {
                let loaded = self.executor.load::<Device>(project, &stream).await?;
                let command =
                    DeviceCommand::RecordCopy { epoch: hello.epoch, seq: hello.last_seq + 1 };
                let events = loaded.state.decide(command)?;
                let parts = vec![(stream.clone(), loaded.version, events)];
                self.executor.try_append(&request, parts).await
            })
            .await?;
        }
        Ok(CommandError::IdentityNotProven(format!(
            "it sent a hello with a previous key of the device, {kid}; is an old copy of its data \
             folder in use?"
        )))
    }

    /// Grants a new epoch, the same one for each repetition of a request.
    async fn grant_epoch(
        &self,
        project: &ProjectId,
        device: DeviceId,
        current: Epoch,
        new_epoch: &NewEpoch,
        logged_hash: Option<Hash>,
    ) -> Result<Epoch, CommandError> {
        let request = Request::unconditional(
            project.clone(),
            format!("device:{device}"),
            new_epoch_id(project, device, new_epoch.request),
        );
        let granted = |events: &[Event]| {
            events.iter().find_map(|event| match event {
                Event::DeviceEpochGranted(granted) => Some(granted.epoch),
                _ => None,
            })
        };
        if let Some((_, stored)) = self.executor.first_result(&request).await? {
            let own: Vec<_> =
                stored.iter().filter(|event| event.stream.device() == Some(device)).collect();
            let events: Vec<Event> =
                own.iter().map(|stored| stored.event()).collect::<Result<_, _>>()?;
            return granted(&events).ok_or_else(|| Rejection::from(Conflict::RequestIdUsed).into());
        }
        if !self.epoch_limit.try_acquire(device) {
            return Err(CommandError::IdentityNotProven(
                "it requests new epochs too often; is its data folder or its disk image used by \
                 several devices?"
                    .into(),
            ));
        }
        let fork = (new_epoch.cause == Cause::Fork).then_some(ForkPoint {
            seq: new_epoch.seq,
            logged_hash,
            other_hash: new_epoch.hash,
        });
        let stream = StreamName::Device(device);
        until_appended(|| async {
            let loaded = self.executor.load::<Device>(project, &stream).await?;
            let command = DeviceCommand::GrantEpoch { current, cause: new_epoch.cause, fork };
            let events = loaded.state.decide(command)?;
            let epoch = granted(&events).unwrap_or_default();
            let parts = vec![(stream.clone(), loaded.version, events)];
            let appended = self.executor.try_append(&request, parts).await?;
            Ok(appended.map(|_| epoch))
        })
        .await
    }
}

/// Returns the append id of a device's request for a new epoch. The device chose the id in the
/// request: unhashed, it could occupy the append id of an operator's request beforehand.
fn new_epoch_id(project: &ProjectId, device: DeviceId, request: Uuid) -> Uuid {
    hashed_id(&codec::encode(&("muster/new-epoch/v1", project, device, request)))
}

/// Returns the same id for each hello by the same previous key, so that it is recorded once.
fn copy_id(device: DeviceId, kid: Hash) -> Uuid {
    hashed_id(&codec::encode(&("muster/copy/v1", device, kid)))
}

/// Returns an append id from a hash of its inputs.
fn hashed_id(bytes: &[u8]) -> Uuid {
    let mut id = [0; 16];
    id.copy_from_slice(Hash::of(bytes).0.split_at(16).0);
    uuid::Builder::from_custom_bytes(id).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_chosen_by_a_device_is_not_used_as_append_id() {
        let (one, other) = (DeviceId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        let (project, chosen) = (ProjectId::default_project(), Uuid::from_u128(3));
        let id = new_epoch_id(&project, one, chosen);
        assert_eq!(id, new_epoch_id(&project, one, chosen));
        assert_ne!(id, chosen);
        assert_ne!(id, new_epoch_id(&project, other, chosen));
        assert_ne!(id, new_epoch_id(&ProjectId::system(), one, chosen));
    }
}
