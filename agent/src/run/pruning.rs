//! Housekeeping: pruning old data.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::{Moment, ServerClock};
use crate::operations::Operations;
use crate::outbox::Outbox;

/// Interval of pruning by age.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Interval between checks of the size: a comparison of two numbers.
const SIZE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Delay between two rounds of pruning a large outbox, so that other tasks can run.
const PRUNE_PAUSE: Duration = Duration::from_millis(20);

/// Prunes the outbox and the journal at the start, once an hour, and when the outbox is too large.
pub(super) async fn prune_periodically(
    outbox: &Outbox,
    clock: &ServerClock,
    operations: &Operations,
) {
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due || outbox.is_overfull() {
            due = Instant::now() + PRUNE_INTERVAL;
            prune(outbox, clock).await;
            operations.prune_journal();
        }
        sleep(SIZE_CHECK_INTERVAL).await;
    }
}

async fn prune(outbox: &Outbox, clock: &ServerClock) {
    loop {
        let at = Moment::now();
        match outbox.prune(clock.time(&at)) {
            Ok(true) => sleep(PRUNE_PAUSE).await,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to remove old events");
                return;
            }
        }
    }
}
