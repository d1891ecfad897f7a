//! Operators' decisions about pending enrollments, and revocation of devices.

use muster_schemas::{DeviceId, StreamName};

use super::accounts::BrokerAccounts;
use super::names;
use crate::domain::device::{Device, DeviceCommand};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::{Decided, Executor};
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
        if replaces == Some(device) {
            return Err(Rejection::from(Conflict::ReplacesItself).into());
        }
        let executor = &self.executor;
        let decide = |state: Device| async move {
            let events = state.decide(DeviceCommand::Accept { replaces })?;
            let mut others = Vec::new();
            if let (Some(other), Some(waiting)) = (replaces, state.pending_enrollment.clone()) {
                others.extend(names::released(executor, request, device, &state).await?);
                let stream = StreamName::Device(other);
                let other = executor.load::<Device>(&request.project, &stream).await?;
                let enrolled = other.state.decide(DeviceCommand::Enroll(Box::new(waiting)))?;
                others.push((stream, other.version, enrolled));
            }
            Ok(Decided { events, others })
        };
        let done = executor.carry_out(request, StreamName::Device(device), decide).await;
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
        let (executor, reason) = (&self.executor, &reason);
        let decide = |state: Device| async move {
            let events = state.decide(DeviceCommand::Reject { reason: reason.clone() })?;
            let released = names::released(executor, request, device, &state).await?;
            Ok(Decided { events, others: released.into_iter().collect() })
        };
        executor.carry_out(request, StreamName::Device(device), decide).await
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
        let command = DeviceCommand::Revoke { reason };
        let decide = |state: Device| {
            let decision = state.decide(command.clone());
            async { Ok(decision?.into()) }
        };
        let done = self.executor.carry_out(request, StreamName::Device(device), decide).await;
        self.accounts.notify_revocation();
        done
    }
}
