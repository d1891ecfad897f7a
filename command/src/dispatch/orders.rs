//! Orders: created, signed, sent, and sent again after a hello.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_blobs::{Blobs, key};
use muster_channel::seal_to;
use muster_eventlog::EventLog;
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{CancelOrder, KIND_HEADER, RunDelivery, RunOrder, input_context};
use muster_schemas::{DeviceId, Epoch, OperationId, ProjectId, RunState, codec};
use tokio::time::timeout;

use super::work_queue::{OpenOperation, OpenRun, WorkQueue};
use crate::clock::now;
use crate::device_keys::DeviceKeys;
use crate::error::CommandError;
use crate::keys::KeyStore;

/// Time to wait for a private part; then the order is left to the dispatcher.
const PRIVATE_PART_TIMEOUT: Duration = Duration::from_secs(2);

/// Signs orders and sends them to devices; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(super) log: EventLog,
    keys: Arc<KeyStore>,
    device_keys: DeviceKeys,
    /// Connection to the servers' account.
    nats: async_nats::Client,
    /// Private input of operations.
    pub(super) blobs: Blobs,
}

impl Orders {
    pub(super) const fn new(
        log: EventLog,
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        nats: async_nats::Client,
        blobs: Blobs,
    ) -> Self {
        Self { log, keys, device_keys, nats, blobs }
    }

    /// Signs a run's order for an epoch of its device.
    pub(super) fn seal_order(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        device: DeviceId,
        epoch: Epoch,
    ) -> Result<Vec<u8>, CommandError> {
        let requested = &operation.requested;
        let order = RunOrder {
            project: project.clone(),
            device,
            epoch,
            operation: operation.id,
            issued_at: now(),
            expires_at: requested.expires_at,
            timeout_ms: requested.timeout_ms,
            actor: operation.actor.clone(),
            action: requested.action.clone(),
            private: requested.private,
        };
        let key = self.keys.operation_key(project)?;
        Ok(key.seal(Kind::Run, codec::encode(&order)))
    }

    async fn publish_command(
        &self,
        project: &ProjectId,
        device: DeviceId,
        kind: &str,
        bytes: Vec<u8>,
    ) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(KIND_HEADER, kind);
        let subject = DeviceSubjects::new(project, device).commands();
        if let Err(error) = self.nats.publish_with_headers(subject, headers, bytes.into()).await {
            tracing::debug!(
                %device, %error, kind,
                "failed to send a message to a device; trying again"
            );
        }
    }

    /// Sends a signed order, with its private input encrypted to the device. If it does not arrive,
    /// it is sent again.
    pub(crate) async fn send_order(
        &self,
        project: &ProjectId,
        device: DeviceId,
        operation: OperationId,
        order: Vec<u8>,
        private: Option<&Bytes>,
    ) {
        let sealed = match private {
            Some(private) => match self.seal_input(project, device, operation, private).await {
                Ok(sealed) => Some(sealed),
                Err(error) => {
                    tracing::warn!(
                        %device, %operation, %error,
                        "failed to seal a run's input; trying again"
                    );
                    return;
                }
            },
            None => None,
        };
        let delivery = RunDelivery { order, private: None, sealed };
        self.publish_command(project, device, "run", codec::encode(&delivery)).await;
    }

    /// Encrypts an order's private input to the key with which the device signs.
    async fn seal_input(
        &self,
        project: &ProjectId,
        device: DeviceId,
        operation: OperationId,
        private: &[u8],
    ) -> Result<Vec<u8>, CommandError> {
        let known = self.device_keys.load(project, device).await?;
        let context = input_context(project, device, operation);
        Ok(seal_to(known.signing_key()?, &context, private)?)
    }

    /// Sends a device the order to cancel a run.
    pub(super) async fn send_cancel(
        &self,
        project: &ProjectId,
        run: &OpenRun,
    ) -> Result<(), CommandError> {
        let order = CancelOrder {
            project: project.clone(),
            device: run.device,
            epoch: run.device_epoch,
            operation: run.operation,
            issued_at: now(),
        };
        let key = self.keys.operation_key(project)?;
        let sealed = key.seal(Kind::Cancel, codec::encode(&order));
        self.publish_command(project, run.device, "cancel", sealed).await;
        Ok(())
    }

    /// After a hello, sends the device again the orders that it has not acknowledged. Runs that
    /// wait for the device to be online are left to the dispatcher.
    ///
    /// # Errors
    /// When the work queue cannot be read.
    pub(crate) async fn deliver_due(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<(), CommandError> {
        for run in WorkQueue::new(self.log.clone()).dispatched_runs(project, device).await? {
            if run.is_canceled {
                self.send_cancel(project, &run).await?;
            } else if let Some(order) = run.order.clone().filter(|_| is_unanswered(&run)) {
                // The dispatcher sends the order when the store cannot be read now.
                let private = match has_private(&order) {
                    true => {
                        let name = key::private(project, run.operation);
                        let read = timeout(PRIVATE_PART_TIMEOUT, self.blobs.get(&name)).await;
                        let Ok(Ok(private)) = read else { continue };
                        private
                    }
                    false => None,
                };
                self.send_order(project, device, run.operation, order, private.as_ref()).await;
            }
        }
        Ok(())
    }

    /// Erases the private input of an operation that is no longer sent to any device.
    pub(crate) async fn erase_private(&self, project: &ProjectId, operation: OperationId) {
        if let Err(error) = self.blobs.erase(&key::private(project, operation)).await {
            tracing::warn!(
                %project, %operation, %error,
                "failed to erase the private input of an operation"
            );
        }
    }
}

fn has_private(order: &[u8]) -> bool {
    let order = Unverified::parse(order).ok();
    let order = order.and_then(|order| codec::decode::<RunOrder>(order.payload()).ok());
    order.is_none_or(|order| order.private.is_some())
}

fn is_unanswered(run: &OpenRun) -> bool {
    run.state == RunState::Dispatched && run.epoch == run.device_epoch
}
