//! Changes of devices by operators: register, change, configure, delete.

use std::sync::Arc;

use muster_schemas::errors::error_chain;
use muster_schemas::names::{
    ConfigKey, ConfigValue, ConfigVars, DeviceName, LabelKey, LabelValue, Labels,
};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::ConfigUpdate;
use muster_schemas::{DeviceId, Hash, ProjectId, StreamName, StreamVersion, codec, cose};
use uuid::Uuid;

use super::accounts::BrokerAccounts;
use super::names;
use crate::device_keys::DeviceKeys;
use crate::domain::device::{Device, DeviceCommand};
use crate::domain::name::{Name, NameCommand};
use crate::domain::{Changes, Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::{Decided, Executor, until_appended};
use crate::keys::KeyStore;
use crate::request::{Request, Written};

/// A change of a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceChanges {
    /// New name of the device.
    pub name: Option<DeviceName>,
    /// Labels to set and to remove.
    pub labels: Changes<LabelKey, LabelValue>,
    /// Config variables to set and to remove.
    pub vars: Changes<ConfigKey, ConfigValue>,
}

/// A device that [`Devices::put`] has created or changed.
#[derive(Clone, Copy, Debug)]
pub struct PutDevice {
    /// Id of the device.
    pub id: DeviceId,
    /// Whether it was created.
    pub is_new: bool,
    /// Result of the write.
    pub written: Written,
}

/// Registers, changes, configures and deletes devices.
#[derive(Clone, Debug)]
pub struct Devices {
    executor: Executor,
    keys: Arc<KeyStore>,
    device_keys: DeviceKeys,
    /// Connection to the servers' account.
    nats: async_nats::Client,
    accounts: BrokerAccounts,
}

impl Devices {
    pub(super) const fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        nats: async_nats::Client,
        accounts: BrokerAccounts,
    ) -> Self {
        Self { executor, keys, device_keys, nats, accounts }
    }

    /// Resolves a device by id or name.
    ///
    /// # Errors
    /// When it does not exist, or the log cannot be read.
    pub async fn resolve(
        &self,
        project: &ProjectId,
        name_or_id: &str,
    ) -> Result<DeviceId, CommandError> {
        if let Ok(id) = name_or_id.parse() {
            return Ok(id);
        }
        let unnamed = || {
            // Long enough to recognize the name in the error.
            let name = name_or_id.chars().take(100).collect();
            Rejection::NameNotFound { what: "device", name }
        };
        let name: DeviceName = name_or_id.parse().map_err(|_| unnamed())?;
        let name = self.executor.load::<Name>(project, &StreamName::Name(name)).await?;
        Ok(name.state.holder.ok_or_else(unnamed)?)
    }

    /// Resolves the device that a request names. A retry resolves to the device of its first
    /// attempt, even if the device was renamed since.
    ///
    /// # Errors
    /// When it does not exist, or the log cannot be read.
    pub async fn requested(
        &self,
        request: &Request,
        name_or_id: &str,
    ) -> Result<DeviceId, CommandError> {
        if let Ok(id) = name_or_id.parse() {
            return Ok(id);
        }
        if request.request_hash.is_some()
            && let Some((_, events)) = self.executor.first_result(request).await?
            && let Some(device) = events.iter().find_map(|event| event.stream.device())
        {
            return Ok(device);
        }
        self.resolve(&request.project, name_or_id).await
    }

    /// Registers a device before it enrolls.
    ///
    /// # Errors
    /// When the name is in use, a limit is exceeded, or the log cannot be used.
    pub async fn register(
        &self,
        request: &Request,
        name: DeviceName,
        labels: Labels,
        fingerprint: Option<Hash>,
    ) -> Result<(DeviceId, Written), CommandError> {
        if let Some((appended, events)) = self.executor.first_result(request).await? {
            let device = events.iter().find_map(|event| event.stream.device());
            let device = device.ok_or(Rejection::NotFound("device"))?;
            return Ok((
                device,
                Written { version: StreamVersion::FIRST, position: appended.last },
            ));
        }
        let fresh = DeviceId(Uuid::now_v7());
        let name_stream = StreamName::Name(name.clone());
        let position = until_appended(|| async {
            let held = self.executor.load::<Name>(&request.project, &name_stream).await?;
            let reserved = held.state.decide(NameCommand::Reserve(fresh))?;
            let registered = Device::default().decide(DeviceCommand::Register {
                name: name.clone(),
                labels: labels.clone(),
                fingerprint,
            })?;
            let parts = vec![
                (StreamName::Device(fresh), StreamVersion::ZERO, registered),
                (name_stream.clone(), held.version, reserved),
            ];
            self.executor.try_append(request, parts).await
        })
        .await?;
        // Another process may have completed the same request first: its result is returned then.
        let made = self.executor.first_result(request).await?;
        let made =
            made.and_then(|(_, events)| events.iter().find_map(|event| event.stream.device()));
        Ok((made.unwrap_or(fresh), Written { version: StreamVersion::FIRST, position }))
    }

    /// Creates the device with this name, or replaces the labels of the device with this name or
    /// id.
    ///
    /// # Errors
    /// When no device has this id, a rule is violated, or the log cannot be used.
    pub async fn put(
        &self,
        request: &Request,
        name_or_id: &str,
        labels: Labels,
    ) -> Result<PutDevice, CommandError> {
        let id = match self.requested(request, name_or_id).await {
            Err(CommandError::Rejected(Rejection::NameNotFound { .. })) => {
                request.check_exists(false)?;
                let name = name_or_id.parse().map_err(|_| Rejection::NotFound("device"))?;
                match self.register(request, name, labels.clone(), None).await {
                    Ok((id, written)) => return Ok(PutDevice { id, is_new: true, written }),
                    // Another request has created it meanwhile.
                    Err(CommandError::Rejected(Rejection::Conflict(Conflict::NameInUse(id)))) => id,
                    Err(error) => return Err(error),
                }
            }
            found => found?,
        };
        request.check_exists(true)?;
        let command = DeviceCommand::ReplaceLabels(labels);
        let written = self.carry_out(request, id, command).await?;
        Ok(PutDevice { id, is_new: false, written })
    }

    /// Renames, labels and configures a device, in one append. Sends it a changed config.
    ///
    /// # Errors
    /// When the device does not exist, the name is in use, a limit is exceeded, or the log cannot
    /// be used.
    pub async fn change(
        &self,
        request: &Request,
        device: DeviceId,
        changes: DeviceChanges,
    ) -> Result<Written, CommandError> {
        let DeviceChanges { name, labels, vars } = changes;
        let seal = |(key, value): (ConfigKey, Option<ConfigValue>)| {
            let value =
                value.map(|value| seal_config(&self.keys, "vars", &request.project, &key, value));
            Ok::<_, CommandError>((key, value.transpose()?))
        };
        let vars = vars.into_iter().map(seal).collect::<Result<Changes<_, _>, _>>()?;
        let has_config = !vars.is_empty();
        let (executor, name, labels, vars) = (&self.executor, &name, &labels, &vars);
        let decide = |state: Device| async move {
            check_exists(&state)?;
            let mut events = state.decide(DeviceCommand::ChangeLabels(labels.clone()))?;
            events.extend(state.decide(DeviceCommand::SetConfig(vars.clone()))?);
            let mut others = Vec::new();
            if let Some(name) = name {
                let renamed = state.decide(DeviceCommand::Rename(name.clone()))?;
                if !renamed.is_empty() {
                    others = names::renamed(executor, request, device, &state, name).await?;
                }
                events.splice(0..0, renamed);
            }
            Ok(Decided { events, others })
        };
        let written = executor.carry_out(request, StreamName::Device(device), decide).await?;
        if has_config {
            self.send_changed_config(&request.project, device).await;
        }
        Ok(written)
    }

    /// Replaces all config variables, and sends the config to the device.
    ///
    /// # Errors
    /// When the device does not exist, a limit is exceeded, or the log cannot be used.
    pub async fn replace_config(
        &self,
        request: &Request,
        device: DeviceId,
        vars: ConfigVars,
    ) -> Result<Written, CommandError> {
        let seal = |(key, value)| {
            let value = seal_config(&self.keys, "vars", &request.project, &key, value)?;
            Ok::<_, CommandError>((key, value))
        };
        let vars = vars.into_iter().map(seal).collect::<Result<_, _>>()?;
        self.change_config(request, device, DeviceCommand::ReplaceConfig(vars)).await
    }

    async fn change_config(
        &self,
        request: &Request,
        device: DeviceId,
        command: DeviceCommand,
    ) -> Result<Written, CommandError> {
        let written = self.carry_out(request, device, command).await?;
        self.send_changed_config(&request.project, device).await;
        Ok(written)
    }

    async fn carry_out(
        &self,
        request: &Request,
        device: DeviceId,
        command: DeviceCommand,
    ) -> Result<Written, CommandError> {
        let command = &command;
        let decide = |state: Device| async move {
            check_exists(&state)?;
            Ok(state.decide(command.clone())?.into())
        };
        self.executor.carry_out(request, StreamName::Device(device), decide).await
    }

    async fn send_changed_config(&self, project: &ProjectId, device: DeviceId) {
        if let Err(error) = self.send_config(project, device).await {
            let error = error_chain(&error);
            tracing::warn!(
                %device, error,
                "failed to send a changed config; the device gets it after its next hello"
            );
        }
    }

    /// Requests that a device rotates its signing key. An offline device finds the request when it
    /// reconnects.
    ///
    /// # Errors
    /// When the device does not exist, it has no key, or the log cannot be used.
    pub async fn rotate_key(
        &self,
        request: &Request,
        device: DeviceId,
    ) -> Result<Written, CommandError> {
        self.change_config(request, device, DeviceCommand::RotateKey).await
    }

    /// Sends a device its config. If it does not arrive, the next welcome contains it.
    async fn send_config(&self, project: &ProjectId, device: DeviceId) -> Result<(), CommandError> {
        let known = self.device_keys.load(project, device).await?;
        // A device that has not enrolled, or is revoked, receives nothing.
        let Ok(key) = known.signing_key() else { return Ok(()) };
        let version = known.state.config_version;
        let config = known.state.config.clone();
        let config = self.keys.config_for_device(project, device, version, config, key)?;
        let update = ConfigUpdate {
            project: project.clone(),
            device,
            epoch: known.state.epoch,
            version,
            vars: config.plain,
            sealed_vars: config.sealed,
        };
        let key = self.keys.operation_key(project)?;
        let sealed = key.seal(cose::Kind::Config, codec::encode(&update));
        let subject = DeviceSubjects::new(project, device).commands();
        if let Err(error) = self.nats.publish(subject, sealed.into()).await {
            tracing::debug!(
                %device, %error,
                "failed to send config; it is sent after the next hello"
            );
        }
        Ok(())
    }

    /// Deletes a device: its name becomes free, its keys are revoked, its history is kept.
    ///
    /// # Errors
    /// When the device does not exist, or the log cannot be used.
    pub async fn delete(
        &self,
        request: &Request,
        device: DeviceId,
    ) -> Result<Written, CommandError> {
        let executor = &self.executor;
        let decide = |state: Device| async move {
            check_exists(&state)?;
            let events = state.decide(DeviceCommand::Delete)?;
            let released = names::released(executor, request, device, &state).await?;
            Ok(Decided { events, others: released.into_iter().collect() })
        };
        let done = executor.carry_out(request, StreamName::Device(device), decide).await;
        self.accounts.notify_revocation();
        done
    }
}

const fn check_exists(device: &Device) -> Result<(), Rejection> {
    if device.exists() { Ok(()) } else { Err(Rejection::NotFound("device")) }
}

/// Returns a config variable's value as it is recorded: a secret one is sealed.
pub(super) fn seal_config(
    keys: &KeyStore,
    field: &'static str,
    project: &ProjectId,
    name: &ConfigKey,
    value: ConfigValue,
) -> Result<ConfigValue, CommandError> {
    let sealed = keys.seal_config(project, name, value);
    sealed.map_err(|error| {
        let rule = format!("the value of {name} {error}");
        Rejection::Invalid { field, rule, value: name.to_string() }.into()
    })
}
