//! Dispatch of operations: which are open, which devices get an order now, and which runs are
//! closed.
//!
//! `queue_projection` is the work queue, a projection of the log. `rules` decides what to do, as pure
//! functions; `dispatcher` does it, in one process at a time; `authentic` verifies the queue
//! against the log before anything is signed; `immediate` dispatches immediately, with the request;
//! `send` signs and sends orders, in any process; `private` reads their private input.
//!
//! Invariant: an order is sent only after the event that contains it is in the log, and that event
//! is appended only at the version of the run's stream that the decision was based on. So two
//! dispatchers cannot give a device two orders for one epoch.

mod authentic;
mod deliveries;
mod dispatcher;
mod immediate;
mod private;
pub mod queue_projection;
pub(crate) mod rules;
mod send;
mod work_queue;

pub(crate) use immediate::ImmediateOrder;
pub(crate) use work_queue::WorkQueue;
pub use work_queue::{OpenOperation, OpenRun, RunState};

use std::future::Future;

use muster_eventlog::projection::Runner;
use muster_eventlog::{Follower, StoreError};
use tokio_util::sync::CancellationToken;

use crate::service::Service;

/// Creates the tables of the work queue; returns the tasks, which end after `stop`.
///
/// # Errors
/// When the tables cannot be created.
pub async fn start(
    service: Service,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, StoreError> {
    let progress = service.dispatch_progress.clone();
    let runner = Runner::open(service.log.clone(), queue_projection::QueueProjection).await?;
    let runner = runner.with_progress(progress.clone());
    let follower = Follower::start(&service.log, stop.clone());
    Ok(async move {
        tokio::join!(
            runner.run(follower, stop.clone()),
            dispatcher::run(service, progress, stop.clone()),
        );
    })
}
