//! Operators' decisions about pending enrollments, and revocation of devices.

use muster_schemas::{DeviceId, StreamName};

use super::accounts::BrokerAccounts;
use super::names;
use crate::domain::device::{Device, DeviceCommand};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::{Executor, until_appended};
use crate::request::{Request, Written};

/// Decides about pending enrollments, and revokes devices.
#[derive(Clone, Debug)]
pub struct Approvals {
    executor: Executor,
    accounts: BrokerAccounts,
}

impl Approvals {
    pub(super) const fn new(executor: Executor, accounts: BrokerAccounts) -> Self {
        Self { executor, accounts }
    }

    /// Accepts a pending enrollment: as a new device, or as a known device, which keeps its name,
    /// labels, config and history and gets the machine's keys.
    ///
    /// # Errors
    /// When it is not pending, the other device does not exist, or the log cannot be used.
    pub async fn accept(
        &self,
        request: &Request,
        device: DeviceId,
        replaces: Option<DeviceId>,
    ) -> Result<Written, CommandError> {
        let stream = StreamName::Device(device);
        if let Some(written) = self.executor.previous_result(request, &stream).await? {
            return Ok(written);
        }
        if replaces == Some(device) {
            return Err(Rejection::from(Conflict::ReplacesItself).into());
        }
        let done = until_appended(|| async {
            let loaded = self.executor.load::<Device>(&request.project, &stream).await?;
            let events = loaded.state.decide(DeviceCommand::Accept { replaces })?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let mut parts = vec![(stream.clone(), loaded.version, events)];
            if let (Some(other), Some(waiting)) =
                (replaces, loaded.state.pending_enrollment.clone())
            {
                parts
                    .extend(names::released(&self.executor, request, device, &loaded.state).await?);
                let stream = StreamName::Device(other);
                let other = self.executor.load::<Device>(&request.project, &stream).await?;
                let enrolled = other.state.decide(DeviceCommand::Enroll(Box::new(waiting)))?;
                parts.push((stream, other.version, enrolled));
            }
            let position = self.executor.try_append(request, parts).await?;
            Ok(position.map(|position| Written { version, position }))
        })
        .await;
        // The append has revoked the keys of the replaced device.
        self.accounts.notify_revocation();
        done
    }

    /// Rejects a pending enrollment.
    ///
    /// # Errors
    /// When it is not pending, or the log cannot be used.
    pub async fn reject(
        &self,
        request: &Request,
        device: DeviceId,
        reason: Option<String>,
    ) -> Result<Written, CommandError> {
        let stream = StreamName::Device(device);
        if let Some(written) = self.executor.previous_result(request, &stream).await? {
            return Ok(written);
        }
        until_appended(|| async {
            let loaded = self.executor.load::<Device>(&request.project, &stream).await?;
            let events = loaded.state.decide(DeviceCommand::Reject { reason: reason.clone() })?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let mut parts = vec![(stream.clone(), loaded.version, events)];
            parts.extend(names::released(&self.executor, request, device, &loaded.state).await?);
            let position = self.executor.try_append(request, parts).await?;
            Ok(position.map(|position| Written { version, position }))
        })
        .await
    }

    /// Revokes a device's keys: it is disconnected and cannot reconnect until it enrolls again with
    /// a token that was created for it.
    ///
    /// # Errors
    /// When the device does not exist, it never enrolled, or the log cannot be used.
    pub async fn revoke(
        &self,
        request: &Request,
        device: DeviceId,
        reason: Option<String>,
    ) -> Result<Written, CommandError> {
        let stream = StreamName::Device(device);
        if let Some(written) = self.executor.previous_result(request, &stream).await? {
            return Ok(written);
        }
        let done = until_appended(|| async {
            let loaded = self.executor.load::<Device>(&request.project, &stream).await?;
            let events = loaded.state.decide(DeviceCommand::Revoke { reason: reason.clone() })?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            let position = self.executor.try_append(request, parts).await?;
            Ok(position.map(|position| Written { version, position }))
        })
        .await;
        self.accounts.notify_revocation();
        done
    }
}
