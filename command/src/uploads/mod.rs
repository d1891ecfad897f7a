//! The files that devices have sent, until they are erased: by their time, by a later one of the same
//! path, or because their run did not come to a good end.
//!
//! `list` is a projection: which files there may be, filled from the log. `keeper` looks through it
//! and erases, in one process at a time.
//!
//! Invariant: that a stored file is erased stands in the log before its bytes are gone. What a crash
//! leaves between the two, the keeper erases again.

mod keeper;
pub mod list;

use std::future::Future;

use muster_eventlog::projection::Runner;
use muster_eventlog::{Follower, StoreError};
use tokio_util::sync::CancellationToken;

use crate::service::Service;

pub use list::NAME;

/// The projection that fills the list.
#[must_use]
pub(crate) fn files() -> list::Files {
    list::Files::default()
}

/// Makes the table of the list; answers the work, which ends after `stop`.
///
/// # Errors
/// When the table cannot be made.
pub async fn start(
    service: Service,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, StoreError> {
    let runner = Runner::open(service.log.clone(), files()).await?;
    let follower = Follower::start(&service.log, stop.clone());
    Ok(async move {
        tokio::join!(runner.run(follower, stop.clone()), keeper::run(service, stop.clone()));
    })
}
