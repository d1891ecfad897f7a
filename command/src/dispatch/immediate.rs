//! Immediate dispatch: runs of a small operation whose devices are online and free get their orders
//! in the transaction that requests them. The dispatcher starts all others, and ends all runs.

use std::collections::BTreeSet;

use muster_eventlog::{ReadFilter, StoreError};
use muster_schemas::events::RunRequested;
use muster_schemas::{DeviceId, Epoch, Position, ProjectId, Timestamp};

use super::orders::Orders;
use super::rules;
use super::work_queue::{OpenOperation, WorkQueue};

/// Maximum number of devices of an operation that is dispatched immediately.
const MAX_IMMEDIATE_DEVICES: usize = 32;

/// Maximum number of newly requested runs that are searched for these devices; with more, the
/// operation is left to the dispatcher.
const MAX_SEARCHED_RUNS: u32 = 1000;

/// An order that can be sent immediately.
#[derive(Debug)]
pub(crate) struct ImmediateOrder {
    pub(crate) device: DeviceId,
    /// Current epoch of the device.
    pub(crate) epoch: Epoch,
    /// The signed order.
    pub(crate) order: Vec<u8>,
}

impl Orders {
    /// Returns the orders of a new operation that can be sent immediately. Other runs wait for the
    /// dispatcher, so no failure is an error.
    pub(crate) async fn immediate_orders(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        devices: &BTreeSet<DeviceId>,
        now: Timestamp,
    ) -> Vec<ImmediateOrder> {
        let places = rules::free_slots(operation, operation.active, now);
        // The dispatcher erases private input, so it must have seen the operation.
        let has_private = operation.requested.private.is_some();
        if devices.len() > MAX_IMMEDIATE_DEVICES || has_private || places == 0 {
            return Vec::new();
        }
        let before = now - rules::RESPONSE_TIMEOUT;
        let list = WorkQueue::new(self.log.clone());
        // The work queue may be behind the log, which knows who is online and which runs were
        // requested since.
        let lookup = async {
            let (free, position) = list.free_devices(project, devices, before, places).await?;
            if free.is_empty() {
                return Ok(None);
            }
            let online = self.log.online(project, devices);
            let (online, requested) =
                tokio::try_join!(online, self.requested_devices(project, position))?;
            Ok::<_, StoreError>(requested.map(|requested| (free, online, requested)))
        };
        let (mut free, online, requested) = match lookup.await {
            Ok(Some(found)) => found,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::debug!(
                    %error,
                    "failed to dispatch an operation immediately; the dispatcher does it"
                );
                return Vec::new();
            }
        };
        free.retain(|(device, _)| online.contains(device) && !requested.contains(device));
        let order = |(device, epoch)| {
            let order = self.seal_order(project, operation, device, epoch).ok()?;
            Some(ImmediateOrder { device, epoch, order })
        };
        free.into_iter().filter_map(order).collect()
    }

    /// Returns the devices for which runs were requested after a position; `None` when there are
    /// too many to search.
    async fn requested_devices(
        &self,
        project: &ProjectId,
        after: Position,
    ) -> Result<Option<BTreeSet<DeviceId>>, StoreError> {
        let kinds = vec![RunRequested::TYPE.to_owned()];
        let filter = ReadFilter { after, until: None, kinds };
        let found = self.log.read(project, &filter, MAX_SEARCHED_RUNS).await?;
        if found.len() == MAX_SEARCHED_RUNS as usize {
            return Ok(None);
        }
        Ok(Some(found.iter().filter_map(|stored| stored.stream.device()).collect()))
    }
}
