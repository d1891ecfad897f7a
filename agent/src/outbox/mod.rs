//! The outbox: every event that this device has recorded, sealed once, kept until the log has it
//! and for some time after.
//!
//! The outbox does not send: `crate::session` decides what is sent when.
//!
//! Invariant: an event is sealed, numbered and stored in one transaction that is on disk before
//! [`Outbox::record`] returns.
//! Invariant: only events that the log has confirmed are pruned; a pruned event that the log
//! requests again is declared lost in a signed event.

mod confirm;
mod envelope;
mod epoch;
mod head;
mod ignored;
mod keys;
mod record;
mod recorder;
mod rotation;
#[cfg(test)]
mod rotation_tests;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use muster_schemas::{DeviceId, Epoch, Hash, ProjectId, Seq, SigningKey};
use parking_lot::{Mutex, MutexGuard};

pub use head::{Verdict, compare_head};
pub(crate) use ignored::IgnoredMessage;
pub use keys::Prover;
pub use record::RecordError;
pub use recorder::Recorder;
pub use state::{Dropped, Pending, View};

use self::keys::Keys;
use self::state::State;
use crate::store::{EVENTS, Store, StoreError, event_key, key};

/// Maximum size of the events of one run, with a reserve, in bytes.
const RUN_RESERVE_BYTES: u64 = 16 * 1024;

/// Capacity of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of events that the log does not have yet, in bytes; beyond it, events are
    /// dropped.
    pub unconfirmed_bytes: u64,
    /// Maximum size of events that the log has, in bytes; the oldest are pruned first.
    pub kept_bytes: u64,
    /// Retention of events that the log has.
    pub kept_for: Duration,
}

impl Default for Limits {
    /// 64 MiB of unconfirmed events; 7 days and 32 MiB of confirmed ones.
    fn default() -> Self {
        Self {
            unconfirmed_bytes: 64 << 20,
            kept_bytes: 32 << 20,
            kept_for: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The outbox of one enrolled device.
#[derive(Debug)]
pub struct Outbox {
    store: Arc<Store>,
    /// Changed only while the state is locked.
    keys: Mutex<Arc<Keys>>,
    project: ProjectId,
    device: DeviceId,
    limits: Limits,
    state: Mutex<State>,
}

impl Outbox {
    /// Opens the outbox in its database; a new outbox starts in `epoch`.
    ///
    /// # Errors
    /// When reading the database fails.
    pub fn open(
        store: Arc<Store>,
        key: SigningKey,
        project: ProjectId,
        device: DeviceId,
        epoch: Epoch,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let state = store.get(key::OUTBOX)?.unwrap_or_else(|| State::new(epoch));
        let keys = Mutex::new(Arc::new(Keys::new(key, store.get(key::ROTATION)?)));
        Ok(Self { store, keys, project, device, limits, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state changes only after its transaction was committed, so it is consistent.
        self.state.lock()
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.lock())
    }

    fn set_keys(&self, keys: Keys) {
        *self.keys.lock() = Arc::new(keys);
    }

    /// Whether more events are kept than the limits allow.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.state().kept_bytes > self.limits.kept_bytes
    }

    /// Whether there is room for the few events of one more run.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.state().unconfirmed_bytes.saturating_add(RUN_RESERVE_BYTES)
            <= self.limits.unconfirmed_bytes
    }

    /// Returns a snapshot of the state.
    #[must_use]
    pub fn view(&self) -> View {
        View::from_state(&self.state())
    }

    /// Returns the sealed bytes of an event of the current epoch; `None` if it was pruned, never
    /// existed, or is damaged.
    ///
    /// # Errors
    /// When reading the database fails.
    pub fn sealed(&self, seq: Seq) -> Result<Option<Vec<u8>>, StoreError> {
        let epoch = self.state().epoch;
        self.intact(epoch, seq)
    }

    fn intact(&self, epoch: Epoch, seq: Seq) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(bytes) = self.stored(epoch, seq)? else { return Ok(None) };
        // The chain proves the event at the cost of a hash. The more expensive signature is
        // verified only if the next event is missing or damaged.
        let is_chained = self.chained(epoch, seq)? == Some(Hash::of(&bytes));
        let is_intact = is_chained || self.keys().is_intact((epoch, seq), &bytes);
        Ok(is_intact.then_some(bytes))
    }

    /// Returns the hash that an event must have according to its successor.
    fn chained(&self, epoch: Epoch, seq: Seq) -> Result<Option<Hash>, StoreError> {
        {
            let state = self.state();
            if epoch == state.epoch && seq == state.last_seq {
                return Ok(Some(state.tip));
            }
        }
        let next = self.stored(epoch, seq + 1)?;
        Ok(next.and_then(|bytes| envelope::open(&bytes).ok()).map(|envelope| envelope.prev))
    }

    fn stored(&self, epoch: Epoch, seq: Seq) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read(|transaction| {
            let table =
                transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
            let found = table
                .get(event_key((epoch, seq)))
                .map_err(StoreError::database("read an event"))?;
            Ok(found.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// Returns the hash of this device's event at a position, if it is still available; zero for
    /// sequence number 0.
    ///
    /// # Errors
    /// When reading the database fails.
    pub fn hash_at(&self, epoch: Epoch, seq: Seq) -> Result<Option<Hash>, StoreError> {
        if seq == Seq::ZERO {
            return Ok(Some(Hash::ZERO));
        }
        {
            let state = self.state();
            if epoch == state.epoch && seq == state.last_seq {
                return Ok(Some(state.tip));
            }
        }
        if let Some(bytes) = self.intact(epoch, seq)? {
            return Ok(Some(Hash::of(&bytes)));
        }
        // Pruned or damaged; but its successor names its hash.
        let next = self.intact(epoch, seq + 1)?;
        next.map(|bytes| envelope::open(&bytes).map(|envelope| envelope.prev)).transpose()
    }

    /// Whether this event of the current epoch can still be sent again.
    fn holds(&self, seq: Seq) -> Result<bool, StoreError> {
        let epoch = self.state().epoch;
        self.store.read(|transaction| {
            let table =
                transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
            let found = table
                .get(event_key((epoch, seq)))
                .map_err(StoreError::database("read an event"))?;
            Ok(found.is_some())
        })
    }
}
