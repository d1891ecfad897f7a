//! Housekeeping: pruning old data.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::shared::Shared;
use crate::clock::Moment;
use crate::operations::prune_journal;

/// Interval of pruning by age.
const EVERY: Duration = Duration::from_secs(3600);
/// Interval between checks of the size: a comparison of two numbers.
const LOOK: Duration = Duration::from_secs(60);
/// Delay between two rounds of pruning a large outbox, so that other tasks can run.
const BREATH: Duration = Duration::from_millis(20);

/// Prunes the outbox and the journal at the start, once an hour, and when the outbox is too large.
pub(super) async fn keep_house(shared: &Shared) {
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due || shared.outbox.is_overfull() {
            due = Instant::now() + EVERY;
            prune(shared).await;
            prune_journal(shared);
        }
        sleep(LOOK).await;
    }
}

async fn prune(shared: &Shared) {
    loop {
        let at = Moment::now();
        match shared.outbox.prune(shared.time(&at)) {
            Ok(true) => sleep(BREATH).await,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to remove old events");
                return;
            }
        }
    }
}
