//! The journal: every operation that this device was ever told of, until long after its order
//! has expired.
//!
//! Invariant: an operation that is here is never taken again. An entry is written before anything
//! starts, in the transaction of the event that tells of it, and outlives the order.

use muster_schemas::events::FileSummary;
use muster_schemas::wire::RunOrder;
use muster_schemas::{Event, OperationId, Timestamp, codec};
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use uuid::Uuid;

use super::upload::Sent;
use crate::store::{RUN_INPUTS, RUNS, Store, StoreError};

/// How long an entry is kept after its order has expired, in microseconds.
const KEPT: i64 = 7 * 24 * 3600 * 1_000_000;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Canceled before its order came: it will never start.
    Barred,
    /// Accepted, and waiting.
    Accepted,
    /// Begun: it may have started, and must not again.
    Begun,
    /// Its end is recorded.
    Ended,
}

/// A process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its id, and its group's.
    pub(super) pid: u32,
    /// The kernel's word on when it started: tells it from a later one with the same id.
    pub(super) ticks: u64,
}

/// The salts of a run's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Salts {
    pub(super) stdout: ByteArray<16>,
    pub(super) stderr: ByteArray<16>,
}

/// How a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// In which boot.
    pub(super) boot: Uuid,
    /// When, by the monotonic clock of that boot.
    pub(super) mono: u64,
    /// When, by the device's wall clock.
    pub(super) at: Timestamp,
    /// Random: by it are found all processes of this run, and of no other agent's.
    pub(super) mark: Uuid,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its place in the order of coming.
    pub(super) ticket: u64,
    pub(super) phase: Phase,
    /// When its order expires.
    pub(super) expires_at: Timestamp,
    /// The order, until the run has ended.
    #[serde(default)]
    pub(super) order: Option<Box<RunOrder>>,
    #[serde(default)]
    pub(super) begun: Option<Begun>,
    #[serde(default)]
    pub(super) process: Option<Process>,
    #[serde(default)]
    pub(super) salts: Option<Salts>,
    /// What an upload sends, since it is known.
    #[serde(default)]
    pub(super) sent: Option<Sent>,
    /// What the server has, once it has all of it.
    #[serde(default)]
    pub(super) file: Option<FileSummary>,
    /// The end, while there is no room for its event.
    #[serde(default)]
    pub(super) end: Option<Box<Event>>,
}

impl Entry {
    /// An entry for an order that came.
    pub(super) fn new(ticket: u64, phase: Phase, expires_at: Timestamp) -> Self {
        Self {
            ticket,
            phase,
            expires_at,
            order: None,
            begun: None,
            process: None,
            salts: None,
            sent: None,
            file: None,
            end: None,
        }
    }

    /// As it is kept when the run has ended.
    pub(super) fn ended(self) -> Self {
        Self { phase: Phase::Ended, order: None, sent: None, file: None, end: None, ..self }
    }
}

fn decode(bytes: &[u8]) -> Result<Entry, StoreError> {
    codec::decode(bytes).map_err(|error| StoreError::Damaged {
        what: "the journal of runs",
        problem: error.to_string(),
    })
}

/// Reads an entry.
pub(super) fn read(store: &Store, id: OperationId) -> Result<Option<Entry>, StoreError> {
    store.read(|transaction| {
        let table = transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
        let found = table.get(id.0.as_u128()).map_err(StoreError::database("read the journal"))?;
        found.map(|bytes| decode(bytes.value())).transpose()
    })
}

/// Reads all entries, by their operations.
pub(super) fn read_all(store: &Store) -> Result<Vec<(OperationId, Entry)>, StoreError> {
    store.read(|transaction| {
        let table = transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
        let mut found = Vec::new();
        for row in table.iter().map_err(StoreError::database("read the journal"))? {
            let (id, bytes) = row.map_err(StoreError::database("read the journal"))?;
            found.push((OperationId(Uuid::from_u128(id.value())), decode(bytes.value())?));
        }
        Ok(found)
    })
}

/// Writes an entry in a transaction. The private part is erased as soon as the run has begun.
pub(super) fn put(
    transaction: &WriteTransaction,
    id: OperationId,
    entry: &Entry,
) -> Result<(), StoreError> {
    let key = id.0.as_u128();
    let mut table = transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
    table
        .insert(key, codec::encode(entry).as_slice())
        .map_err(StoreError::database("write the journal"))?;
    if entry.phase != Phase::Accepted {
        let mut inputs =
            transaction.open_table(RUN_INPUTS).map_err(StoreError::database("open a table"))?;
        inputs.remove(key).map_err(StoreError::database("erase a private part"))?;
    }
    Ok(())
}

/// Keeps the private part of a run until it begins.
pub(super) fn put_input(
    transaction: &WriteTransaction,
    id: OperationId,
    input: &[u8],
) -> Result<(), StoreError> {
    let mut table =
        transaction.open_table(RUN_INPUTS).map_err(StoreError::database("open a table"))?;
    table.insert(id.0.as_u128(), input).map_err(StoreError::database("keep a private part"))?;
    Ok(())
}

/// The private part of a run that was not begun.
pub(super) fn read_input(store: &Store, id: OperationId) -> Result<Option<Vec<u8>>, StoreError> {
    store.read(|transaction| {
        let table =
            transaction.open_table(RUN_INPUTS).map_err(StoreError::database("open a table"))?;
        let found =
            table.get(id.0.as_u128()).map_err(StoreError::database("read a private part"))?;
        Ok(found.map(|bytes| bytes.value().to_vec()))
    })
}

/// Lets go of what ended and expired long ago, unless `is_needed` still. `now` is the server's
/// time: by a wrong clock of the device an order could be taken again that has not expired.
pub(super) fn prune(
    store: &Store,
    now: Timestamp,
    is_needed: impl Fn(OperationId) -> bool,
) -> Result<usize, StoreError> {
    let oldest = now.plus_micros(-KEPT);
    let old: Vec<_> = read_all(store)?
        .into_iter()
        .filter(|(id, entry)| {
            matches!(entry.phase, Phase::Ended | Phase::Barred)
                && entry.expires_at < oldest
                && !is_needed(*id)
        })
        .collect();
    if old.is_empty() {
        return Ok(0);
    }
    store.write(|transaction| {
        let mut table =
            transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
        for (id, _) in &old {
            table.remove(id.0.as_u128()).map_err(StoreError::database("prune the journal"))?;
        }
        Ok(())
    })?;
    Ok(old.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Folder;

    #[test]
    fn entries_are_kept_until_long_after_their_order_and_inputs_until_the_run_begins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Folder::open(dir.path()).unwrap()).unwrap();
        let id = |n| OperationId(Uuid::from_u128(n));
        let write = |n, phase, expires| {
            let entry = Entry::new(n as u64, phase, Timestamp(expires));
            store.write(|transaction| put(transaction, id(n), &entry)).unwrap();
        };
        write(1, Phase::Accepted, 1);
        store.write(|transaction| put_input(transaction, id(1), b"secret")).unwrap();
        assert_eq!(read_input(&store, id(1)).unwrap().as_deref(), Some(&b"secret"[..]));
        write(1, Phase::Begun, 1);
        assert_eq!(read_input(&store, id(1)).unwrap(), None);
        write(2, Phase::Ended, 1);
        write(3, Phase::Barred, 1);
        write(4, Phase::Ended, 1);
        write(5, Phase::Ended, 10);
        let kept = |now, needed| {
            let pruned = prune(&store, Timestamp(now), |it| it == id(needed)).unwrap();
            let left = read_all(&store).unwrap().into_iter().map(|(id, _)| id.0.as_u128());
            (pruned, left.collect::<Vec<_>>())
        };
        assert_eq!(kept(KEPT, 4), (0, vec![1, 2, 3, 4, 5]));
        assert_eq!(kept(KEPT + 2, 4), (2, vec![1, 4, 5]), "what was begun stays, too");
        assert_eq!(kept(KEPT + 11, 9), (2, vec![1]));
    }
}
