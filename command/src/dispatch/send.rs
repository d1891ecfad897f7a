//! Orders: made, sealed, sent, and sent again after a hello.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use muster_api::blobs::{BlobError, key};
use muster_schemas::cose::Kind;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{CancelOrder, KIND_HEADER, RunDelivery, RunOrder};
use muster_schemas::{DeviceId, OperationId, ProjectId, codec};

use super::list::{List, OpenOperation, OpenRun};
use crate::service::{Service, ServiceError, now};

/// The private parts of the operations that are being sent.
#[derive(Debug, Default)]
pub(super) struct PrivateParts(HashMap<OperationId, Option<Arc<Bytes>>>);

impl PrivateParts {
    /// Forgets those of operations that are not sent any more.
    pub(super) fn keep_only(&mut self, is_open: impl Fn(OperationId) -> bool) {
        self.0.retain(|operation, _| is_open(*operation));
    }

    /// The private part of an operation, if it has one. One that was erased is not there.
    pub(super) async fn of(
        &mut self,
        service: &Service,
        project: &ProjectId,
        operation: OperationId,
    ) -> Result<Option<Arc<Bytes>>, BlobError> {
        if let Some(known) = self.0.get(&operation) {
            return Ok(known.clone());
        }
        let found = service.blobs.get(&key::private(project, operation)).await?.map(Arc::new);
        self.0.insert(operation, found.clone());
        Ok(found)
    }
}

impl Service {
    /// Seals a run's order for an epoch of its device.
    pub(super) fn seal_order(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        device: DeviceId,
        epoch: u64,
    ) -> Result<Vec<u8>, ServiceError> {
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

    async fn tell(&self, project: &ProjectId, device: DeviceId, kind: &str, bytes: Vec<u8>) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(KIND_HEADER, kind);
        let subject = DeviceSubjects::new(project, device).commands();
        if let Err(error) = self.nats.publish_with_headers(subject, headers, bytes.into()).await {
            tracing::debug!(%device, %error, kind, "a device could not be told; it is told again");
        }
    }

    /// Sends a sealed order. When it does not arrive, it is sent again.
    pub(crate) async fn send_order(
        &self,
        project: &ProjectId,
        device: DeviceId,
        order: Vec<u8>,
        private: Option<&Bytes>,
    ) {
        let delivery = RunDelivery { order, private: private.map(|bytes| bytes.to_vec()) };
        self.tell(project, device, "run", codec::encode(&delivery)).await;
    }

    /// Tells a device to end a run.
    pub(super) async fn send_cancel(
        &self,
        project: &ProjectId,
        run: &OpenRun,
    ) -> Result<(), ServiceError> {
        let order = CancelOrder {
            project: project.clone(),
            device: run.device,
            epoch: run.device_epoch,
            operation: run.operation,
            issued_at: now(),
        };
        let key = self.keys.operation_key(project)?;
        let sealed = key.seal(Kind::Cancel, codec::encode(&order));
        self.tell(project, run.device, "cancel", sealed).await;
        Ok(())
    }

    /// After a hello: sends the device again what it was sent and has not answered. What waits for
    /// it to be online, the dispatcher brings.
    ///
    /// # Errors
    /// When the list, or a private part, cannot be read.
    pub(crate) async fn deliver_due(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<(), ServiceError> {
        let mut private = PrivateParts::default();
        for run in List::new(self.log.clone()).of_device(project, device).await? {
            if run.canceled {
                self.send_cancel(project, &run).await?;
            } else if let Some(order) = run.order.clone().filter(|_| is_unanswered(&run)) {
                let private = private.of(self, project, run.operation).await?;
                self.send_order(project, device, order, private.as_deref()).await;
            }
        }
        Ok(())
    }
}

fn is_unanswered(run: &OpenRun) -> bool {
    run.state == super::RunState::Dispatched && run.epoch == run.device_epoch
}
