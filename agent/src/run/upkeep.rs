//! Housekeeping: letting go what is old, and getting to the disk what was written relaxed.

use std::time::Duration;

use tokio::time::sleep;

use super::shared::Shared;
use crate::clock::Moment;

const EVERY: Duration = Duration::from_secs(3600);
const FIRST: Duration = Duration::from_secs(60);
/// Between two prunings of a large outbox others get their turn.
const SLACK: Duration = Duration::from_millis(20);

/// Prunes the outbox once an hour.
pub(super) async fn keep_house(shared: &Shared) {
    sleep(FIRST).await;
    loop {
        loop {
            let at = Moment::now();
            match shared.outbox.prune(shared.time(&at)) {
                Ok(true) => sleep(SLACK).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "old events could not be let go");
                    break;
                }
            }
        }
        sleep(EVERY).await;
    }
}
