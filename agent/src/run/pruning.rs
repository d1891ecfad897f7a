//! Housekeeping: pruning old data.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::shared::Shared;
use crate::clock::Moment;
use crate::operations::prune_journal;

/// Interval of pruning by age.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Interval between checks of the size: a comparison of two numbers.
const SIZE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Delay between two rounds of pruning a large outbox, so that other tasks can run.
const PRUNE_PAUSE: Duration = Duration::from_millis(20);

/// Prunes the outbox and the journal at the start, once an hour, and when the outbox is too large.
pub(super) async fn prune_periodically(shared: &Shared) {
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due || shared.outbox.is_overfull() {
            due = Instant::now() + PRUNE_INTERVAL;
            prune(shared).await;
            prune_journal(shared);
        }
        sleep(SIZE_CHECK_INTERVAL).await;
    }
}

async fn prune(shared: &Shared) {
    loop {
        let at = Moment::now();
        match shared.outbox.prune(shared.time(&at)) {
            Ok(true) => sleep(PRUNE_PAUSE).await,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to remove old events");
                return;
            }
        }
    }
}
