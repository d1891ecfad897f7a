//! Retries connections to servers that are not available yet, at the start of a role.

use std::error::Error;
use std::time::{Duration, Instant};

use muster_schemas::errors::error_chain;
use tokio_util::sync::CancellationToken;

/// Startup timeout of a server, and the interval between attempts.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Repeats an attempt until it succeeds; logs each new problem once. Returns the last error: after
/// 60 s, when a retry cannot succeed (`is_final`), or when the process stops.
pub(super) async fn retry_until_ready<
    T,
    E: Error + 'static,
    Attempt: Future<Output = Result<T, E>>,
>(
    name: &'static str,
    stop: &CancellationToken,
    is_final: impl Fn(&E) -> bool,
    attempt: impl Fn() -> Attempt,
) -> Result<T, E> {
    let started_at = Instant::now();
    let mut reported = String::new();
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if started_at.elapsed() > STARTUP_TIMEOUT || stop.is_cancelled() || is_final(&error) {
            return Err(error);
        }
        let text = error_chain(&error);
        if text != reported {
            tracing::warn!(error = %text, "{name} is not available yet; trying again");
            reported = text;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
}
