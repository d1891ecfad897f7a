//! The outbox's counters, which are stored next to the events.

use muster_schemas::wire::NewEpoch;
use muster_schemas::{Epoch, Hash, Seq, Timestamp};
use serde::{Deserialize, Serialize};

/// The stored state; written in the same transaction as the events that it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Current epoch, in which events are recorded.
    pub(super) epoch: Epoch,
    /// Sequence number of the newest event of this epoch; 0 if there is none.
    pub(super) last_seq: Seq,
    /// Hash of that event.
    pub(super) tip: Hash,
    /// Sequence number of the newest event of this epoch that the log has; 0 if there is none.
    pub(super) confirmed: Seq,
    /// Size of the events that the log does not have yet, in bytes.
    pub(super) unconfirmed_bytes: u64,
    /// Size of the kept events that the log has, in bytes.
    pub(super) kept_bytes: u64,
    /// Events that could not be recorded and are not yet reported by an event.
    #[serde(default)]
    pub(super) dropped: Option<Dropped>,
    /// The new epoch that the device has requested.
    #[serde(default)]
    pub(super) pending: Option<Pending>,
    /// The earlier epochs, each with the sequence number of its newest event that the log has.
    #[serde(default)]
    pub(super) before: Vec<(Epoch, Seq)>,
}

impl State {
    pub(super) const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            last_seq: Seq::ZERO,
            tip: Hash::ZERO,
            confirmed: Seq::ZERO,
            unconfirmed_bytes: 0,
            kept_bytes: 0,
            dropped: None,
            pending: None,
            before: Vec::new(),
        }
    }

    /// Updates the state: this sealed event is now the newest.
    pub(super) fn advance(&mut self, sealed: &[u8]) {
        self.last_seq += 1;
        self.tip = Hash::of(sealed);
        self.unconfirmed_bytes = self.unconfirmed_bytes.saturating_add(sealed.len() as u64);
    }
}

/// Events that were never recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Number of events.
    pub count: u64,
    /// Time of the first event.
    pub first: Timestamp,
    /// Time of the last event.
    pub last: Timestamp,
}

/// A new epoch that was requested and not granted yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The request in the hello.
    pub ask: NewEpoch,
    /// The last event that the log certainly has: later ones are sealed again in the new epoch.
    pub common: (Epoch, Seq),
}

/// Snapshot of the outbox's state, for its senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Current epoch, in which events are recorded.
    pub epoch: Epoch,
    /// Sequence number of the newest event of this epoch; 0 if there is none.
    pub last_seq: Seq,
    /// Sequence number of the newest event of this epoch that the log has; 0 if there is none.
    pub confirmed: Seq,
    /// Size of the events that the log does not have yet, in bytes.
    pub unconfirmed_bytes: u64,
    /// Size of the kept events that the log has, in bytes.
    pub kept_bytes: u64,
    /// Number of events that could not be recorded and are not yet reported by an event.
    pub dropped: u64,
    /// Whether a new epoch was requested. Until it is granted, sending has no effect.
    pub is_waiting_for_epoch: bool,
}

impl View {
    pub(super) fn from_state(state: &State) -> Self {
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

    /// Number of events that the log does not have yet.
    #[must_use]
    pub const fn unconfirmed(&self) -> u64 {
        self.last_seq.since(self.confirmed)
    }
}
