//! What is private of the operations that are being sent: read once each, beside the rounds of the
//! dispatcher, so that a store that does not answer holds up nothing that needs none. They are also
//! sealed concurrently with the rounds (`deliveries`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use muster_api::blobs::{BlobError, key};
use muster_schemas::{DeviceId, OperationId, ProjectId};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::deliveries::Deliveries;
use crate::service::Service;

/// A part that is not read within this time is not waited for.
const PATIENCE: Duration = Duration::from_millis(250);

/// An order that was signed.
pub(super) struct Sealed {
    pub(super) project: ProjectId,
    pub(super) device: DeviceId,
    pub(super) order: Vec<u8>,
}

enum Part {
    /// It is being read; these orders wait for it.
    Asked(Vec<Sealed>),
    /// It is here, unless it was erased.
    Here(Option<Bytes>),
}

type Answer = (OperationId, Result<Option<Bytes>, BlobError>);

/// The private parts of open operations.
#[derive(Default)]
pub(super) struct PrivateParts {
    known: HashMap<OperationId, Part>,
    asked: JoinSet<Answer>,
    deliveries: Deliveries,
    /// Is a part waited for? No more in a round in which one did not come.
    is_patient: bool,
}

impl PrivateParts {
    /// A round begins: forgets those of operations that are not sent any more.
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

    /// Sends an order that has no private part; after the device's orders in progress.
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

    /// Sends an order with its private part: now, or when that was read.
    pub(super) async fn send(&mut self, service: &Service, operation: OperationId, order: Sealed) {
        match self.known.get_mut(&operation) {
            Some(Part::Here(private)) => {
                let private = private.clone();
                self.deliver(service, operation, order, private);
            }
            // One that waits for long is sent again, and waits already.
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
                // So that orders come in their order, as long as the store is not away.
                if self.is_patient {
                    match timeout(PATIENCE, self.read()).await {
                        Ok(answer) => self.take(service, answer),
                        Err(_) => self.is_patient = false,
                    }
                }
            }
        }
    }

    /// The next one that was read; never, while none is asked for.
    pub(super) async fn read(&mut self) -> Answer {
        loop {
            match self.asked.join_next().await {
                Some(Ok(answer)) => return answer,
                // Which one, is not said: all are asked for anew when their orders are sent again.
                Some(Err(error)) => {
                    tracing::error!(%error, "a private part is not read");
                    self.known.retain(|_, part| matches!(part, Part::Here(_)));
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Sends what waited for a part. When that cannot be read, the orders are sent again later, as
    /// those that were lost.
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
                tracing::warn!(%operation, orders = waiting.len(), %error, "orders wait");
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
