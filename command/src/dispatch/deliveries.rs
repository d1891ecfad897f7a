//! Orders that are sealed and sent concurrently with the dispatcher's rounds, a few at a time, so
//! that neither an abort nor another operation waits for them.
//!
//! Invariant: the orders of one device are sent in the order in which they were started.
//! Invariant: an order is not sent after its cancel.

use std::collections::HashMap;
use std::sync::Arc;

use muster_schemas::{DeviceId, OperationId};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

/// Maximum number of orders that are sealed concurrently.
const MAX_CONCURRENT_SEALS: usize = 8;

/// The orders in progress.
pub(super) struct Deliveries {
    permits: Arc<Semaphore>,
    /// Deliveries by device, the oldest first.
    by_device: HashMap<DeviceId, Vec<Delivery>>,
}

struct Delivery {
    operation: OperationId,
    task: AbortHandle,
    /// Completes when the task ends; taken by the device's next delivery.
    done: Option<oneshot::Receiver<()>>,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONCURRENT_SEALS)), by_device: HashMap::new() }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.by_device.values().flatten().for_each(|started| started.task.abort());
    }
}

impl Deliveries {
    /// Starts a delivery, which waits for the previous one to the same device.
    pub(super) fn start(
        &mut self,
        operation: OperationId,
        device: DeviceId,
        deliver: impl Future<Output = ()> + Send + 'static,
    ) {
        let of_device = self.by_device.entry(device).or_default();
        let before = of_device.last_mut().and_then(|last| last.done.take());
        let (ended, end) = oneshot::channel::<()>();
        let permits = Arc::clone(&self.permits);
        let task = tokio::spawn(async move {
            // Dropped with this task, also when it is aborted.
            let _ended = ended;
            if let Some(before) = before {
                // An error means that the previous delivery has ended.
                let _ = before.await;
            }
            // The semaphore is never closed.
            let _permit = permits.acquire().await;
            deliver.await;
        });
        of_device.push(Delivery { operation, task: task.abort_handle(), done: Some(end) });
    }

    /// Stops a delivery that was not sent yet: its run is canceled.
    pub(super) fn cancel(&self, operation: OperationId, device: DeviceId) {
        let of_device = self.by_device.get(&device).into_iter().flatten();
        for started in of_device.filter(|started| started.operation == operation) {
            started.task.abort();
        }
    }

    /// Whether an order to this device is in progress.
    pub(super) fn is_in_progress(&self, device: DeviceId) -> bool {
        self.by_device
            .get(&device)
            .is_some_and(|started| started.iter().any(Delivery::is_in_progress))
    }

    /// Forgets deliveries that have ended.
    pub(super) fn remove_ended(&mut self) {
        self.by_device.retain(|_, of_device| {
            of_device.retain(Delivery::is_in_progress);
            !of_device.is_empty()
        });
    }
}

impl Delivery {
    fn is_in_progress(&self) -> bool {
        !self.task.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::time::Duration;

    use tokio::sync::Notify;
    use uuid::Uuid;

    use super::*;

    fn operation(number: u128) -> OperationId {
        OperationId(Uuid::from_u128(number))
    }

    fn device(number: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(number))
    }

    /// Messages that were sent, and a way to send one that waits for a notification.
    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<u128>>>, Arc<Notify>);

    impl Sent {
        fn all(&self) -> Vec<u128> {
            self.0.lock().clone()
        }

        fn send(&self, number: u128) -> impl Future<Output = ()> + use<> {
            let sent = self.clone();
            async move { sent.0.lock().push(number) }
        }

        fn send_when_notified(&self, number: u128) -> impl Future<Output = ()> + use<> {
            let sent = self.clone();
            async move {
                sent.1.notified().await;
                sent.0.lock().push(number);
            }
        }

        async fn until(&self, count: usize) -> Vec<u128> {
            for _ in 0..2_000 {
                if self.all().len() >= count {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.all()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_delivery_delays_only_its_own_device() {
        let (mut deliveries, sent) = (Deliveries::default(), Sent::default());
        deliveries.start(operation(1), device(1), sent.send_when_notified(1));
        deliveries.start(operation(2), device(1), sent.send(2));
        deliveries.start(operation(1), device(2), sent.send(3));
        assert_eq!(sent.until(1).await, [3]);
        assert!(deliveries.is_in_progress(device(1)));
        sent.1.notify_one();
        assert_eq!(sent.until(3).await, [3, 1, 2], "in the order of their start");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_canceled_delivery_is_not_sent_and_the_next_one_is() {
        let (mut deliveries, sent) = (Deliveries::default(), Sent::default());
        deliveries.start(operation(1), device(1), sent.send_when_notified(1));
        deliveries.start(operation(2), device(1), sent.send(2));
        // Stopping the first delivery unblocks the second one.
        deliveries.cancel(operation(1), device(1));
        assert_eq!(sent.until(1).await, [2]);
        sent.1.notify_one();
        deliveries.remove_ended();
        deliveries.start(operation(3), device(1), sent.send(3));
        assert_eq!(sent.until(2).await, [2, 3]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_number_of_orders_sealed_concurrently_is_limited() {
        let (mut deliveries, sent) = (Deliveries::default(), Sent::default());
        let running = Arc::new(Mutex::new((0_usize, 0_usize)));
        for number in 0..50 {
            let (running, send) = (Arc::clone(&running), sent.send(number));
            deliveries.start(operation(1), device(number), async move {
                {
                    let mut running = running.lock();
                    running.0 += 1;
                    running.1 = running.1.max(running.0);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                running.lock().0 -= 1;
                send.await;
            });
        }
        assert_eq!(sent.until(50).await.len(), 50);
        let most = running.lock().1;
        assert!((2..=MAX_CONCURRENT_SEALS).contains(&most), "{most}");
    }
}
