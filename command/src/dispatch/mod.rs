//! Operations on their way: what is open, who gets an order now, and what is closed.
//!
//! `todo` is a projection: the list of what is open, filled from the log. `rules` decides, purely,
//! what is to be done about it; `dispatcher` does it, in one process at a time; `authentic` checks the list against the
//! log before anything is signed; `begin` does what needs no waiting, with the request; `send` seals and sends orders, in any process; `private` reads what goes with them.
//!
//! Invariant: an order is sent only after the event that holds it is in the log, and that event only
//! goes into a run's stream at the version that was decided on. So two dispatchers cannot give a
//! device two orders for one epoch.

mod authentic;
mod begin;
mod deliveries;
mod dispatcher;
mod list;
mod private;
pub(crate) mod rules;
mod send;
pub mod todo;

pub(crate) use begin::Begun;
pub(crate) use list::List;
pub use list::{OpenOperation, OpenRun, RunState};

use std::future::Future;

use muster_eventlog::projection::Runner;
use muster_eventlog::{Follower, StoreError};
use tokio_util::sync::CancellationToken;

use crate::service::Service;

/// Makes the tables of the list; answers the work, which ends after `stop`.
///
/// # Errors
/// When the tables cannot be made.
pub async fn start(
    service: Service,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, StoreError> {
    let progress = service.dispatch_progress.clone();
    let runner = Runner::open(service.log.clone(), todo::Todo).await?;
    let runner = runner.with_progress(progress.clone());
    let follower = Follower::start(&service.log, stop.clone());
    Ok(async move {
        tokio::join!(
            runner.run(follower, stop.clone()),
            dispatcher::run(service, progress, stop.clone()),
        );
    })
}
