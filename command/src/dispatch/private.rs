//! Private input of operations that are being sent: read once for each, concurrently with the
//! dispatcher's rounds, so that a store that does not respond delays only orders that need it. It
//! is also sealed concurrently with the rounds (`deliveries`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use muster_blobs::{BlobError, key};
use muster_schemas::{DeviceId, OperationId, ProjectId};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::deliveries::Deliveries;
use super::orders::Orders;

/// Time for which a round waits for a private part.
const READ_TIMEOUT: Duration = Duration::from_millis(250);

/// A signed order.
pub(super) struct SignedOrder {
    pub(super) project: ProjectId,
    pub(super) device: DeviceId,
    pub(super) order: Vec<u8>,
}

enum Part {
    /// The part is being read; these orders wait for it.
    Reading(Vec<SignedOrder>),
    /// The part was read; `None` if it was erased.
    Read(Option<Bytes>),
}

type PartRead = (OperationId, Result<Option<Bytes>, BlobError>);

/// The private parts of open operations.
#[derive(Default)]
pub(super) struct PrivateParts {
    parts: HashMap<OperationId, Part>,
    reads: JoinSet<PartRead>,
    deliveries: Deliveries,
    /// Whether this round waits for parts; false after one was not read in time.
    can_wait: bool,
}

impl PrivateParts {
    /// Starts a round: forgets the parts of operations that are not open.
    pub(super) fn start_round(&mut self, is_open: impl Fn(OperationId) -> bool) {
        self.parts.retain(|operation, _| is_open(*operation));
        self.can_wait = true;
        self.deliveries.remove_ended();
    }

    /// Stops sending orders of this run: it is canceled.
    pub(super) fn cancel(&mut self, operation: OperationId, device: DeviceId) {
        if let Some(Part::Reading(waiting)) = self.parts.get_mut(&operation) {
            waiting.retain(|order| order.device != device);
        }
        self.deliveries.cancel(operation, device);
    }

    /// Sends an order without a private part, after the device's orders in progress.
    pub(super) async fn send_plain(
        &mut self,
        orders: &Orders,
        operation: OperationId,
        order: SignedOrder,
    ) {
        if self.deliveries.is_in_progress(order.device) {
            self.deliver(orders, operation, order, None);
            return;
        }
        let SignedOrder { project, device, order } = order;
        orders.send_order(&project, device, operation, order, None).await;
    }

    /// Sends an order with its private part: now, or when the part has been read.
    pub(super) async fn send(
        &mut self,
        orders: &Orders,
        operation: OperationId,
        order: SignedOrder,
    ) {
        match self.parts.get_mut(&operation) {
            Some(Part::Read(private)) => {
                let private = private.clone();
                self.deliver(orders, operation, order, private);
            }
            // An order that waits for long is sent again, but is queued once.
            Some(Part::Reading(waiting)) => {
                if !waiting.iter().any(|existing| existing.device == order.device) {
                    waiting.push(order);
                }
            }
            None => {
                let (blobs, name) = (orders.blobs.clone(), key::private(&order.project, operation));
                self.reads.spawn(async move { (operation, blobs.get(&name).await) });
                self.parts.insert(operation, Part::Reading(vec![order]));
                // Orders stay in their sequence as long as the store is available.
                if self.can_wait {
                    match timeout(READ_TIMEOUT, self.read()).await {
                        Ok(result) => self.handle_read(orders, result),
                        Err(_) => self.can_wait = false,
                    }
                }
            }
        }
    }

    /// Returns the next part that was read; pending while none is requested.
    pub(super) async fn read(&mut self) -> PartRead {
        loop {
            match self.reads.join_next().await {
                Some(Ok(result)) => return result,
                // The error does not name the part: all are requested again when their orders are
                // sent again.
                Some(Err(error)) => {
                    tracing::error!(%error, "failed to read private input");
                    self.parts.retain(|_, part| matches!(part, Part::Read(_)));
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Sends the orders that waited for a part. If the part cannot be read, they are sent again
    /// later, like lost ones.
    pub(super) fn handle_read(&mut self, orders: &Orders, (operation, part): PartRead) {
        let Some(Part::Reading(waiting)) = self.parts.remove(&operation) else { return };
        match part {
            Ok(private) => {
                for order in waiting {
                    self.deliver(orders, operation, order, private.clone());
                }
                self.parts.insert(operation, Part::Read(private));
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
        orders: &Orders,
        operation: OperationId,
        order: SignedOrder,
        private: Option<Bytes>,
    ) {
        let SignedOrder { project, device, order } = order;
        let orders = orders.clone();
        self.deliveries.start(operation, device, async move {
            orders.send_order(&project, device, operation, order, private.as_ref()).await;
        });
    }
}
