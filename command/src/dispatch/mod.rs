//! Dispatch of operations: which are open, which devices get an order now, and which runs are
//! closed.
//!
//! `queue_projection` is the work queue, a projection of the log. `rules` decides what to do, as pure
//! functions; `dispatcher` does it, in one process at a time; `authentic` verifies the queue
//! against the log before anything is signed; `immediate` dispatches with the request; `orders`
//! signs and sends orders, in any process; `private` reads their private input.
//!
//! Invariant: an order is sent only after the event that contains it is in the log, and that event
//! is appended only at the version of the run's stream that the decision was based on. So two
//! dispatchers cannot give a device two orders for one epoch.

mod authentic;
mod deliveries;
mod dispatcher;
mod immediate;
mod orders;
mod private;
pub mod queue_projection;
pub(crate) mod rules;
mod work_queue;

pub(crate) use immediate::ImmediateOrder;
pub(crate) use work_queue::WorkQueue;
pub use work_queue::{OpenOperation, OpenRun};

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use futures::future::BoxFuture;
use muster_blobs::Blobs;
use muster_eventlog::projection::{Progress, Runner};
use muster_eventlog::{Follower, StoreError};
use tokio_util::sync::CancellationToken;

use crate::device_keys::DeviceKeys;
use crate::executor::Executor;
use crate::keys::KeyStore;

use orders::Orders;

/// Dispatches operations; cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatch {
    executor: Executor,
    pub(crate) orders: Orders,
    /// Progress of the work queue's projection in this process.
    pub(crate) progress: Progress,
}

impl Dispatch {
    pub(crate) fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        nats: async_nats::Client,
        blobs: Blobs,
    ) -> Self {
        let orders = Orders::new(executor.log.clone(), keys, device_keys, nats, blobs);
        Self { executor, orders, progress: Progress::default() }
    }

    /// Creates the tables of the work queue; returns the tasks, which end after `stop`.
    ///
    /// # Errors
    /// When the tables cannot be created.
    #[boxed]
    pub async fn start(
        self,
        stop: CancellationToken,
    ) -> Result<BoxFuture<'static, ()>, StoreError> {
        let Self { executor, orders, progress } = self;
        let runner = Runner::open(executor.log.clone(), queue_projection::QueueProjection).await?;
        let runner = runner.with_progress(progress.clone());
        let follower = Follower::start(&executor.log, stop.clone());
        let tasks: BoxFuture<'static, ()> = Box::pin(async move {
            tokio::join!(
                runner.run(follower, stop.clone()),
                dispatcher::run(executor, orders, progress, stop.clone()),
            );
        });
        Ok(tasks)
    }
}
