//! Metric batches that were not stored by the broker: bounded, the oldest go first.
//!
//! Sends nothing. Each is compressed. Kept with relaxed durability: a crash may cost the last minute of
//! them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_schemas::metrics::{MAX_BATCH_BYTES, MAX_POINTS, MetricBatch, Point};
use muster_schemas::{codec, compress};
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Anchor;
use crate::store::{BACKLOG, Store, StoreError};

/// With less free space than this on the disk, metrics are not kept any more, and make room for
/// events; in bytes.
const RESERVE: u64 = 16 << 20;

/// Every so many batches one write goes down to the disk: once a minute by default.
const SYNC_EVERY: u64 = 6;

/// So many batches go into one message at most, and so many compressed bytes of them, which leaves
/// room below the largest message.
const TOGETHER: usize = 60;
const TOGETHER_BYTES: usize = MAX_BATCH_BYTES / 4 * 3;

/// A batch in the backlog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The boot in which it was taken.
    pub boot: Uuid,
    /// The monotonic clock then.
    pub mono: u64,
    /// Is its time the server's? Otherwise the device's, because nothing better was known.
    pub is_corrected: bool,
    /// The batch as it goes on the wire.
    #[serde(with = "serde_bytes")]
    pub batch: Vec<u8>,
}

impl Queued {
    /// The batch to send: a time that was never corrected is, when the clock is known by now. `None`
    /// when it cannot be read.
    fn batch(&self, anchor: Option<&Anchor>) -> Option<MetricBatch> {
        let batch = MetricBatch::decode(&self.batch).ok()?;
        let time = anchor.and_then(|anchor| anchor.server_time_at(self.boot, self.mono));
        Some(match time {
            Some(time) if !self.is_corrected => MetricBatch { time, ..batch },
            _ => batch,
        })
    }
}

/// Batches as one, in which each point keeps its time; and how many of them it holds.
#[must_use]
pub(super) fn together(
    batches: &[Queued],
    anchor: Option<&Anchor>,
) -> (Option<MetricBatch>, usize) {
    let mut whole: Option<MetricBatch> = None;
    for (taken, queued) in batches.iter().enumerate() {
        let Some(batch) = queued.batch(anchor) else { continue };
        let whole = match &mut whole {
            None => {
                whole = Some(batch);
                continue;
            }
            Some(whole) => whole,
        };
        if whole.points.len() + batch.points.len() > MAX_POINTS {
            return (Some(whole.clone()), taken);
        }
        let later = batch.time.micros().saturating_sub(whole.time.micros());
        whole.points.extend(batch.points.into_iter().map(|point| {
            let offset = point.offset.saturating_add(later);
            Point { offset, ..point }
        }));
    }
    (whole, batches.len())
}

/// How full the backlog is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacklogView {
    /// Batches.
    pub batches: u64,
    /// Their size.
    pub bytes: u64,
    /// Batches that were dropped since the agent's start.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct State {
    view: BacklogView,
    next: u64,
    unsynced: u64,
    /// Was it said that the disk is full?
    is_disk_full: bool,
}

/// The queue of batches on the disk.
#[derive(Debug)]
pub struct Backlog {
    store: Arc<Store>,
    limit: u64,
    state: Mutex<State>,
}

impl Backlog {
    /// Opens the backlog; it holds at most `limit` bytes.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(store: Arc<Store>, limit: u64) -> Result<Self, StoreError> {
        let state = store.read(|transaction| {
            let table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            let mut state = State::default();
            for entry in table.iter().map_err(StoreError::database("read the backlog"))? {
                let (place, value) = entry.map_err(StoreError::database("read the backlog"))?;
                state.view.batches += 1;
                state.view.bytes += value.value().len() as u64;
                state.next = place.value() + 1;
            }
            Ok(state)
        })?;
        Ok(Self { store, limit, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only numbers that are mended at the next start.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full it is.
    #[must_use]
    pub fn view(&self) -> BacklogView {
        self.state().view
    }

    /// Puts a batch at the end; drops the oldest ones where there is no room, or this one when
    /// the disk is full.
    pub fn push(&self, queued: &Queued) {
        let mut state = self.state();
        let is_disk_full = self.store.folder().free_bytes().is_some_and(|free| free < RESERVE);
        if is_disk_full {
            self.make_room(&mut state);
            return;
        }
        let batch = compress::compress(queued.batch.clone());
        let bytes = codec::encode(&Queued { batch, ..queued.clone() });
        let (before, limit) = (state.view, self.limit);
        let (mut view, place) = (before, state.next);
        state.unsynced += 1;
        let is_sync = state.unsynced >= SYNC_EVERY;
        let write = |transaction: &WriteTransaction| {
            let mut table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            view.bytes += bytes.len() as u64;
            view.batches += 1;
            table.insert(place, bytes.as_slice()).map_err(StoreError::database("keep a batch"))?;
            drop(table);
            drop_oldest(transaction, &mut view, limit)
        };
        let outcome =
            if is_sync { self.store.write(write) } else { self.store.write_relaxed(write) };
        match outcome {
            Ok(()) => {
                state.view = view;
                state.next = place + 1;
                if is_sync {
                    state.unsynced = 0;
                }
                if std::mem::take(&mut state.is_disk_full) {
                    tracing::info!("metrics are kept again");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a batch could not be kept");
                self.make_room(&mut state);
            }
        }
    }

    /// The disk is full: half of the backlog goes, so that events find room in the file, and the
    /// batch at hand is not kept.
    fn make_room(&self, state: &mut State) {
        if !std::mem::replace(&mut state.is_disk_full, true) {
            tracing::error!(
                folder = %self.store.folder().path().display(),
                "the disk is full: metrics are not kept while offline, the oldest are dropped; make room"
            );
        }
        state.view.dropped += 1;
        let mut view = state.view;
        let half = view.bytes / 2;
        let outcome = self.store.write(|transaction| drop_oldest(transaction, &mut view, half));
        match outcome {
            Ok(()) => state.view = view,
            Err(error) => tracing::debug!(%error, "the backlog could not be cut"),
        }
    }

    /// The oldest batches and their places, as many as go into one message; what cannot be read is
    /// passed over, and goes with the others.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn oldest(&self) -> Result<(Vec<u64>, Vec<Queued>), StoreError> {
        self.store.read(|transaction| {
            let table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            let (mut places, mut batches, mut bytes) = (Vec::new(), Vec::new(), 0);
            for entry in table.iter().map_err(StoreError::database("read the backlog"))? {
                let (place, value) = entry.map_err(StoreError::database("read the backlog"))?;
                bytes += value.value().len();
                if !places.is_empty() && (places.len() == TOGETHER || bytes > TOGETHER_BYTES) {
                    break;
                }
                places.push(place.value());
                batches.extend(codec::decode::<Queued>(value.value()));
            }
            Ok((places, batches))
        })
    }

    /// Takes batches out: the broker has them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove(&self, places: &[u64]) -> Result<(), StoreError> {
        let mut state = self.state();
        let (mut batches, mut bytes) = (0, 0);
        self.store.write_relaxed(|transaction| {
            let mut table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            for place in places {
                let removed = table.remove(*place).map_err(StoreError::database("drop a batch"))?;
                batches += u64::from(removed.is_some());
                bytes += removed.map_or(0, |value| value.value().len() as u64);
            }
            Ok(())
        })?;
        state.view.batches = state.view.batches.saturating_sub(batches);
        state.view.bytes = state.view.bytes.saturating_sub(bytes);
        Ok(())
    }
}

fn drop_oldest(
    transaction: &WriteTransaction,
    view: &mut BacklogView,
    limit: u64,
) -> Result<(), StoreError> {
    let mut table =
        transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
    while view.bytes > limit {
        let Some((_, value)) = table.pop_first().map_err(StoreError::database("drop a batch"))?
        else {
            break;
        };
        view.bytes = view.bytes.saturating_sub(value.value().len() as u64);
        view.batches = view.batches.saturating_sub(1);
        view.dropped += 1;
    }
    Ok(())
}
