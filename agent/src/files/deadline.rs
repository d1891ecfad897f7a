//! Work on a file system that may not respond, with a timeout.

use std::io;
use std::time::Duration;

use tokio::time;

use super::bounds::Failure;

/// Timeout of a request that moves data, for a slow disk.
pub(super) const DATA_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs work on the file system at `path` in another thread.
///
/// # Errors
/// The error of the work, or a timeout.
pub(super) async fn run_in_thread<T: Send + 'static>(
    path: &str,
    timeout: Duration,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match time::timeout(timeout, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(io::Error::other(error).into()),
        Err(_) => Err(Failure::Unresponsive(path.to_owned())),
    }
}
