//! Private input of operations that are being sent: read once for each, concurrently with the
//! dispatcher's rounds, so that a store that does not respond delays only orders that need it. It
//! is also sealed concurrently with the rounds (`deliveries`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use muster_api::blobs::{BlobError, key};
use muster_schemas::{DeviceId, OperationId, ProjectId};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::deliveries::Deliveries;
use crate::service::Service;

/// Time for which a round waits for a private part.
const PATIENCE: Duration = Duration::from_millis(250);

/// A signed order.
pub(super) struct Sealed {
    pub(super) project: ProjectId,
    pub(super) device: DeviceId,
    pub(super) order: Vec<u8>,
}

enum Part {
    /// The part is being read; these orders wait for it.
    Asked(Vec<Sealed>),
    /// The part was read; `None` if it was erased.
    Here(Option<Bytes>),
}

type Answer = (OperationId, Result<Option<Bytes>, BlobError>);

/// The private parts of open operations.
#[derive(Default)]
pub(super) struct PrivateParts {
    known: HashMap<OperationId, Part>,
    asked: JoinSet<Answer>,
    deliveries: Deliveries,
    /// Whether this round waits for parts; false after one was not read in time.
    is_patient: bool,
}

impl PrivateParts {
    /// Starts a round: forgets the parts of operations that are not open.
    pub(super) fn begin_round(&mut self, is_open: impl Fn(OperationId) -> bool) {
        self.known.retain(|operation, _| is_open(*operation));
        self.is_patient = true;
        self.deliveries.forget_ended();
    }

    /// Stops sending orders of this run: it is canceled.
    pub(super) fn cancel(&mut self, operation: OperationId, device: DeviceId) {
        if let Some(Part::Asked(waiting)) = self.known.get_mut(&operation) {
            waiting.retain(|order| order.device != device);
        }
        self.deliveries.cancel(operation, device);
    }

    /// Sends an order without a private part, after the device's orders in progress.
    pub(super) async fn send_plain(
        &mut self,
        service: &Service,
        operation: OperationId,
        order: Sealed,
    ) {
        if self.deliveries.is_under_way(order.device) {
            self.deliver(service, operation, order, None);
            return;
        }
        let Sealed { project, device, order } = order;
        service.send_order(&project, device, operation, order, None).await;
    }

    /// Sends an order with its private part: now, or when the part has been read.
    pub(super) async fn send(&mut self, service: &Service, operation: OperationId, order: Sealed) {
        match self.known.get_mut(&operation) {
            Some(Part::Here(private)) => {
                let private = private.clone();
                self.deliver(service, operation, order, private);
            }
            // An order that waits for long is sent again, but is queued once.
            Some(Part::Asked(waiting)) => {
                if !waiting.iter().any(|known| known.device == order.device) {
                    waiting.push(order);
                }
            }
            None => {
                let (blobs, name) =
                    (service.blobs.clone(), key::private(&order.project, operation));
                self.asked.spawn(async move { (operation, blobs.get(&name).await) });
                self.known.insert(operation, Part::Asked(vec![order]));
                // Orders stay in their sequence as long as the store is available.
                if self.is_patient {
                    match timeout(PATIENCE, self.read()).await {
                        Ok(answer) => self.take(service, answer),
                        Err(_) => self.is_patient = false,
                    }
                }
            }
        }
    }

    /// Returns the next part that was read; pending while none is requested.
    pub(super) async fn read(&mut self) -> Answer {
        loop {
            match self.asked.join_next().await {
                Some(Ok(answer)) => return answer,
                // The error does not name the part: all are requested again when their orders are
                // sent again.
                Some(Err(error)) => {
                    tracing::error!(%error, "failed to read private input");
                    self.known.retain(|_, part| matches!(part, Part::Here(_)));
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Sends the orders that waited for a part. If the part cannot be read, they are sent again
    /// later, like lost ones.
    pub(super) fn take(&mut self, service: &Service, (operation, found): Answer) {
        let Some(Part::Asked(waiting)) = self.known.remove(&operation) else { return };
        match found {
            Ok(private) => {
                for order in waiting {
                    self.deliver(service, operation, order, private.clone());
                }
                self.known.insert(operation, Part::Here(private));
            }
            Err(error) => {
                tracing::warn!(
                    %operation, orders = waiting.len(), %error,
                    "failed to read private input; orders wait"
                );
            }
        }
    }

    fn deliver(
        &mut self,
        service: &Service,
        operation: OperationId,
        order: Sealed,
        private: Option<Bytes>,
    ) {
        let Sealed { project, device, order } = order;
        let service = service.clone();
        self.deliveries.start(operation, device, async move {
            service.send_order(&project, device, operation, order, private.as_ref()).await;
        });
    }
}
