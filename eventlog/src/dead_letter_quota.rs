//! The number of dead letters that one process may still store for each sender, and when it prunes
//! them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum number of dead letters of one device that one process stores per minute.
pub(crate) const MAX_PER_MINUTE: u32 = 20;
/// Number of new dead letters after which the oldest are pruned.
const PRUNE_INTERVAL: usize = 1_000;
/// Maximum number of senders in memory.
const MAX_SENDERS: usize = 50_000;

/// Remaining number of dead letters to store for each sender in the current minute.
#[derive(Debug, Default)]
pub(crate) struct DeadLetterQuota {
    /// Start of the minute and the number of dead letters in it, by source and device.
    senders: HashMap<(&'static str, String), (Instant, u32)>,
    /// Number of dead letters since the last pruning.
    since_pruned: usize,
}

impl DeadLetterQuota {
    /// Whether another dead letter of this sender may be stored.
    pub(crate) fn take(&mut self, source: &'static str, sender: &str, now: Instant) -> bool {
        const MINUTE: Duration = Duration::from_secs(60);
        let is_over = |started_at: Instant| now.saturating_duration_since(started_at) >= MINUTE;
        if self.senders.len() >= MAX_SENDERS {
            self.senders.retain(|_, (started_at, _)| !is_over(*started_at));
        }
        if self.senders.len() >= MAX_SENDERS {
            return false;
        }
        let (started_at, kept) =
            self.senders.entry((source, sender.to_owned())).or_insert((now, 0));
        if is_over(*started_at) {
            (*started_at, *kept) = (now, 0);
        }
        *kept += 1;
        *kept <= MAX_PER_MINUTE
    }

    /// Counts new dead letters; whether the oldest ones must be deleted now.
    pub(crate) fn is_pruning_due(&mut self, added: usize) -> bool {
        self.since_pruned += added;
        let is_due = self.since_pruned >= PRUNE_INTERVAL;
        if is_due {
            self.since_pruned = 0;
        }
        is_due
    }
}
