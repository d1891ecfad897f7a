//! Housekeeping: letting go what is old.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::shared::Shared;
use crate::clock::Moment;
use crate::operations::prune_journal;

/// By age, events are let go this often.
const EVERY: Duration = Duration::from_secs(3600);
/// By size, it is looked at this often: a comparison of two numbers.
const LOOK: Duration = Duration::from_secs(60);
/// Between two rounds of a large outbox others get their turn.
const BREATH: Duration = Duration::from_millis(20);

/// Prunes outbox and journal at the start, once an hour, and when it holds too much.
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
                tracing::warn!(%error, "old events could not be let go");
                return;
            }
        }
    }
}
