//! Uploaded files until they are erased: because they expired, a later upload of the same path
//! replaces them, or their run did not succeed.
//!
//! `list` is a projection of the log: which files may exist. `eraser` reads it and erases, in one
//! process at a time.
//!
//! Invariant: the erasure of a stored file is in the log before its data is erased. After a crash
//! between the two, `eraser` repeats the erasure.

mod eraser;
pub mod list;

use async_recursion::async_recursion as boxed;
use futures::future::BoxFuture;
use muster_eventlog::projection::Runner;
use muster_eventlog::{Follower, StoreError};
use tokio_util::sync::CancellationToken;

use crate::service::Uploads;

pub use list::NAME;

/// The projection that fills the list.
#[must_use]
pub(crate) fn files() -> list::Files {
    list::Files::default()
}

/// Creates the tables of the list; returns the task, which ends after `stop`.
///
/// # Errors
/// When the tables cannot be created.
#[boxed]
pub async fn start(
    uploads: Uploads,
    stop: CancellationToken,
) -> Result<BoxFuture<'static, ()>, StoreError> {
    let runner = Runner::open(uploads.log().clone(), files()).await?;
    let follower = Follower::start(uploads.log(), stop.clone());
    let tasks: BoxFuture<'static, ()> = Box::pin(async move {
        tokio::join!(runner.run(follower, stop.clone()), eraser::run(uploads, stop.clone()));
    });
    Ok(tasks)
}
