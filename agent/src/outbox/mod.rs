//! The outbox: every event that this device recorded, sealed once, until the log has it, and for
//! a while after.
//!
//! Sends nothing and knows no connection: `crate::session` decides what is sent when.
//!
//! Invariant: an event is sealed, numbered and stored in one transaction that is on the disk
//! before [`Outbox::record`] returns.
//! Invariant: only what the log has confirmed is ever let go; what is let go and asked for again
//! is declared lost in a signed event.

mod confirm;
mod epoch;
mod judge;
mod keys;
mod record;
#[cfg(test)]
mod rotation_tests;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_schemas::{DeviceId, Hash, ProjectId, SigningKey};

pub use judge::{Verdict, judge};
pub use keys::Prover;
pub use record::RecordError;
pub use state::{Dropped, Pending, View};

use self::keys::Keys;
use self::state::State;
use crate::store::{EVENTS, Store, StoreError, key};

/// What the events of a run take at most, with some to spare, in bytes.
const ROOM: u64 = 16 * 1024;

/// How much the outbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events that the log does not have yet, in bytes; when full, nothing more is recorded.
    pub unconfirmed_bytes: u64,
    /// Events that the log has, in bytes; the oldest are let go first.
    pub kept_bytes: u64,
    /// How long events that the log has are kept, in microseconds.
    pub kept_micros: i64,
}

impl Default for Limits {
    /// 64 MiB unconfirmed; confirmed ones 7 days, at most 32 MiB.
    fn default() -> Self {
        Self {
            unconfirmed_bytes: 64 << 20,
            kept_bytes: 32 << 20,
            kept_micros: 7 * 24 * 3600 * 1_000_000,
        }
    }
}

/// The outbox of one enrolled device.
#[derive(Debug)]
pub struct Outbox {
    store: Arc<Store>,
    /// Changed only while the state is held.
    keys: Mutex<Arc<Keys>>,
    project: ProjectId,
    device: DeviceId,
    limits: Limits,
    state: Mutex<State>,
}

impl Outbox {
    /// Opens the outbox in its database; a first time it starts in `epoch`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(
        store: Arc<Store>,
        key: SigningKey,
        project: ProjectId,
        device: DeviceId,
        epoch: u64,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let state = store.get(key::OUTBOX)?.unwrap_or_else(|| State::new(epoch));
        let keys = Mutex::new(Arc::new(Keys::new(key, store.get(key::ROTATION)?)));
        Ok(Self { store, keys, project, device, limits, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state changes only after its transaction was committed, so it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_keys(&self, keys: Keys) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Is more kept than may be?
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.state().kept_bytes > self.limits.kept_bytes
    }

    /// Is there room for the few events of one more run?
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.state().unconfirmed_bytes.saturating_add(ROOM) <= self.limits.unconfirmed_bytes
    }

    /// Where the outbox stands.
    #[must_use]
    pub fn view(&self) -> View {
        View::of(&self.state())
    }

    /// The sealed bytes of an event of the current epoch; `None` when it was let go, never was, or is
    /// damaged.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sealed(&self, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let epoch = self.state().epoch;
        self.intact(epoch, seq)
    }

    fn intact(&self, epoch: u64, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(bytes) = self.stored(epoch, seq)? else { return Ok(None) };
        // The chain says so at the cost of a hash; a signature costs more, and is asked where the
        // next event is gone or damaged itself.
        let is_chained = self.chained(epoch, seq)? == Some(Hash::of(&bytes));
        let is_intact = is_chained || self.keys().is_intact((epoch, seq), &bytes);
        Ok(is_intact.then_some(bytes))
    }

    /// The hash that an event must have by what was recorded after it.
    fn chained(&self, epoch: u64, seq: u64) -> Result<Option<Hash>, StoreError> {
        {
            let state = self.state();
            if epoch == state.epoch && seq == state.last_seq {
                return Ok(Some(state.tip));
            }
        }
        let next = self.stored(epoch, seq + 1)?;
        Ok(next.and_then(|bytes| record::open(&bytes).ok()).map(|envelope| envelope.prev))
    }

    fn stored(&self, epoch: u64, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read(|transaction| {
            let table =
                transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
            let found = table.get((epoch, seq)).map_err(StoreError::database("read an event"))?;
            Ok(found.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// The hash of this device's event at a place, as far as it is still known; zero for place 0.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn hash_at(&self, epoch: u64, seq: u64) -> Result<Option<Hash>, StoreError> {
        if seq == 0 {
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
        // It was let go, or is damaged; but the one after it names its hash.
        let next = self.intact(epoch, seq + 1)?;
        next.map(|bytes| record::open(&bytes).map(|envelope| envelope.prev)).transpose()
    }

    /// Is this event of the current epoch still here, to be sent again?
    fn holds(&self, seq: u64) -> Result<bool, StoreError> {
        let epoch = self.state().epoch;
        self.store.read(|transaction| {
            let table =
                transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
            let found = table.get((epoch, seq)).map_err(StoreError::database("read an event"))?;
            Ok(found.is_some())
        })
    }
}
