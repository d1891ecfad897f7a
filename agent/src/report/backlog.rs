//! Metric batches that the broker has not stored: bounded, the oldest are dropped first.
//!
//! Batches are compressed, and stored with relaxed durability: a crash may lose those of the last
//! minute.

use std::sync::Arc;

use muster_schemas::metrics::{MAX_BATCH_BYTES, MAX_POINTS, MetricBatch, Point};
use muster_schemas::{codec, compress};
use parking_lot::{Mutex, MutexGuard};
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::Anchor;
use crate::store::{BACKLOG, Store, StoreError};

/// Minimum free disk space, in bytes: below it, metrics are not kept, to leave room for events.
const MIN_FREE_BYTES: u64 = 16 << 20;

/// Number of batches per write that is synced to disk: once a minute by default.
const BATCHES_PER_SYNC: u64 = 6;

/// Maximum number of batches in one message. Their compressed size is limited, too, to leave a
/// reserve below the maximum size of a message.
const MAX_MERGED_BATCHES: usize = 60;
const MAX_MERGED_BYTES: usize = MAX_BATCH_BYTES / 4 * 3;

/// A batch in the backlog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Id of the boot in which it was sampled.
    pub boot: Uuid,
    /// The monotonic clock at that moment.
    pub mono: u64,
    /// Whether its time is the server's. Otherwise it is the device's, because the server's was
    /// unknown.
    pub is_corrected: bool,
    /// The encoded batch.
    #[serde(with = "serde_bytes")]
    pub batch: Vec<u8>,
}

impl Queued {
    /// Returns the batch to send, with a corrected time if the server's clock is known by now.
    /// `None` if it cannot be decoded.
    fn batch(&self, anchor: Option<&Anchor>) -> Option<MetricBatch> {
        let batch = MetricBatch::decode(&self.batch).ok()?;
        let time = anchor.and_then(|anchor| anchor.server_time_at(self.boot, self.mono));
        Some(match time {
            Some(time) if !self.is_corrected => MetricBatch { time, ..batch },
            _ => batch,
        })
    }
}

/// Merges batches into one, in which each point keeps its time; also returns the number of merged
/// batches.
#[must_use]
pub(super) fn merge(batches: &[Queued], anchor: Option<&Anchor>) -> (Option<MetricBatch>, usize) {
    let mut whole: Option<MetricBatch> = None;
    for (taken, queued) in batches.iter().enumerate() {
        let Some(batch) = queued.batch(anchor) else { continue };
        let Some(whole) = &mut whole else {
            whole = Some(batch);
            continue;
        };
        if whole.points.len() + batch.points.len() > MAX_POINTS {
            return (Some(whole.clone()), taken);
        }
        let later = batch.time.micros_since(whole.time);
        whole.points.extend(batch.points.into_iter().map(|point| {
            let offset = point.offset.saturating_add(later);
            Point { offset, ..point }
        }));
    }
    (whole, batches.len())
}

/// Fill level of the backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacklogView {
    /// Number of batches.
    pub batches: u64,
    /// Size of the batches, in bytes.
    pub bytes: u64,
    /// Number of batches that were dropped since the agent's start.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct State {
    view: BacklogView,
    next: u64,
    unsynced: u64,
    /// Whether it was logged that the disk is full.
    is_disk_full: bool,
}

/// The queue of batches on disk.
#[derive(Debug)]
pub struct Backlog {
    store: Arc<Store>,
    limit: u64,
    state: Mutex<State>,
    /// Notified when a batch was added.
    grew: Notify,
}

impl Backlog {
    /// Opens the backlog, with a maximum size of `limit` bytes.
    ///
    /// # Errors
    /// When reading the database fails.
    pub fn open(store: Arc<Store>, limit: u64) -> Result<Self, StoreError> {
        let state = store.read(|transaction| {
            let table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            let mut state = State::default();
            for entry in table.iter().map_err(StoreError::database("read the backlog"))? {
                let (position, value) = entry.map_err(StoreError::database("read the backlog"))?;
                state.view.batches += 1;
                state.view.bytes += value.value().len() as u64;
                state.next = position.value() + 1;
            }
            Ok(state)
        })?;
        Ok(Self { store, limit, state: Mutex::new(state), grew: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state contains only numbers, which the next start computes again.
        self.state.lock()
    }

    /// Returns the fill level.
    #[must_use]
    pub fn view(&self) -> BacklogView {
        self.state().view
    }

    /// Waits until a batch is added.
    pub(super) async fn grew(&self) {
        self.grew.notified().await;
    }

    /// Appends a batch; drops the oldest ones if there is no room, or this one if the disk is full.
    pub fn push(&self, queued: &Queued) {
        let mut state = self.state();
        let is_disk_full =
            self.store.folder().free_bytes().is_some_and(|free| free < MIN_FREE_BYTES);
        if is_disk_full {
            self.drop_half(&mut state);
            return;
        }
        let batch = compress::compress(queued.batch.clone());
        let bytes = codec::encode(&Queued { batch, ..queued.clone() });
        let (before, limit) = (state.view, self.limit);
        let (mut view, position) = (before, state.next);
        state.unsynced += 1;
        let is_sync = state.unsynced >= BATCHES_PER_SYNC;
        let write = |transaction: &WriteTransaction| {
            let mut table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            view.bytes += bytes.len() as u64;
            view.batches += 1;
            table
                .insert(position, bytes.as_slice())
                .map_err(StoreError::database("store a batch"))?;
            drop(table);
            drop_oldest(transaction, &mut view, limit)
        };
        let outcome =
            if is_sync { self.store.write(write) } else { self.store.write_relaxed(write) };
        match outcome {
            Ok(()) => {
                state.view = view;
                state.next = position + 1;
                self.grew.notify_one();
                if is_sync {
                    state.unsynced = 0;
                }
                if std::mem::take(&mut state.is_disk_full) {
                    tracing::info!("metrics are stored in the backlog again");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "failed to store a batch in the backlog");
                self.drop_half(&mut state);
            }
        }
    }

    /// Handles a full disk: drops half of the backlog, so that events find room in the file. The
    /// current batch is not kept.
    fn drop_half(&self, state: &mut State) {
        if !std::mem::replace(&mut state.is_disk_full, true) {
            tracing::error!(
                folder = %self.store.folder().path().display(),
                "the disk is full: metrics are not kept while offline and the oldest are dropped; \
                 free space"
            );
        }
        state.view.dropped += 1;
        let mut view = state.view;
        let half = view.bytes / 2;
        let outcome = self.store.write(|transaction| drop_oldest(transaction, &mut view, half));
        match outcome {
            Ok(()) => state.view = view,
            Err(error) => tracing::debug!(%error, "failed to truncate the backlog"),
        }
    }

    /// Returns the oldest batches and their keys, as many as fit into one message. Unreadable
    /// batches are skipped, and deleted with the others.
    ///
    /// # Errors
    /// When reading the database fails.
    pub fn oldest(&self) -> Result<(Vec<u64>, Vec<Queued>), StoreError> {
        self.store.read(|transaction| {
            let table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            let (mut places, mut batches, mut bytes) = (Vec::new(), Vec::new(), 0);
            for entry in table.iter().map_err(StoreError::database("read the backlog"))? {
                let (position, value) = entry.map_err(StoreError::database("read the backlog"))?;
                bytes += value.value().len();
                if !places.is_empty()
                    && (places.len() == MAX_MERGED_BATCHES || bytes > MAX_MERGED_BYTES)
                {
                    break;
                }
                places.push(position.value());
                batches.extend(codec::decode::<Queued>(value.value()));
            }
            Ok((places, batches))
        })
    }

    /// Deletes batches that the broker has stored.
    ///
    /// # Errors
    /// When the write fails.
    pub fn remove(&self, keys: &[u64]) -> Result<(), StoreError> {
        let mut state = self.state();
        let (mut batches, mut bytes) = (0, 0);
        self.store.write_relaxed(|transaction| {
            let mut table =
                transaction.open_table(BACKLOG).map_err(StoreError::database("open a table"))?;
            for position in keys {
                let removed =
                    table.remove(*position).map_err(StoreError::database("remove a batch"))?;
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
        let Some((_, value)) = table.pop_first().map_err(StoreError::database("remove a batch"))?
        else {
            break;
        };
        view.bytes = view.bytes.saturating_sub(value.value().len() as u64);
        view.batches = view.batches.saturating_sub(1);
        view.dropped += 1;
    }
    Ok(())
}
