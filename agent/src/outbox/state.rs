//! Where the outbox stands: the few numbers that are stored beside the events.

use muster_schemas::wire::NewEpoch;
use muster_schemas::{Hash, Timestamp};
use serde::{Deserialize, Serialize};

/// What is stored, in the same transaction as the events that it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The epoch that events are recorded in.
    pub(super) epoch: u64,
    /// The newest event of this epoch; 0 when none.
    pub(super) last_seq: u64,
    /// Its hash.
    pub(super) tip: Hash,
    /// The newest event of this epoch that the log has; 0 when none.
    pub(super) confirmed: u64,
    /// The size of what the log does not have yet.
    pub(super) unconfirmed_bytes: u64,
    /// The size of what it has and is kept.
    pub(super) kept_bytes: u64,
    /// What could not be recorded since the last event that said so.
    #[serde(default)]
    pub(super) dropped: Option<Dropped>,
    /// A new epoch that was asked for.
    #[serde(default)]
    pub(super) pending: Option<Pending>,
    /// The epochs before, each with the newest of its events that the log has.
    #[serde(default)]
    pub(super) before: Vec<(u64, u64)>,
}

impl State {
    pub(super) const fn new(epoch: u64) -> Self {
        Self {
            epoch,
            last_seq: 0,
            tip: Hash::ZERO,
            confirmed: 0,
            unconfirmed_bytes: 0,
            kept_bytes: 0,
            dropped: None,
            pending: None,
            before: Vec::new(),
        }
    }

    /// A sealed event is the newest one now.
    pub(super) fn take(&mut self, sealed: &[u8]) {
        self.last_seq += 1;
        self.tip = Hash::of(sealed);
        self.unconfirmed_bytes = self.unconfirmed_bytes.saturating_add(sealed.len() as u64);
    }
}

/// Events that were never recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// How many.
    pub count: u64,
    /// When the first of them happened.
    pub first: Timestamp,
    /// When the last of them happened.
    pub last: Timestamp,
}

/// A new epoch that was asked for and not granted yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What the hello says.
    pub ask: NewEpoch,
    /// The last event that the log has for certain: what comes after it goes into the new epoch.
    pub common: (u64, u64),
}

/// Where the outbox stands, for those who send from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The epoch that events are recorded in.
    pub epoch: u64,
    /// The newest event of this epoch; 0 when none.
    pub last_seq: u64,
    /// The newest event of this epoch that the log has; 0 when none.
    pub confirmed: u64,
    /// The size of what the log does not have yet.
    pub unconfirmed_bytes: u64,
    /// The size of what it has and is kept.
    pub kept_bytes: u64,
    /// How many events could not be recorded since the last event that said so.
    pub dropped: u64,
    /// Was a new epoch asked for? Until it is granted, sending is of no use.
    pub is_waiting_for_epoch: bool,
}

impl View {
    pub(super) fn of(state: &State) -> Self {
        Self {
            epoch: state.epoch,
            last_seq: state.last_seq,
            confirmed: state.confirmed,
            unconfirmed_bytes: state.unconfirmed_bytes,
            kept_bytes: state.kept_bytes,
            dropped: state.dropped.map_or(0, |dropped| dropped.count),
            is_waiting_for_epoch: state.pending.is_some(),
        }
    }

    /// How many events the log does not have yet.
    #[must_use]
    pub const fn unconfirmed(&self) -> u64 {
        self.last_seq.saturating_sub(self.confirmed)
    }
}
