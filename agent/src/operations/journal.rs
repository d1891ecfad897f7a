//! The journal: every operation that this device has received, until long after its order has
//! expired.
//!
//! Invariant: an operation in the journal is never accepted again. An entry is written before
//! anything starts, in the transaction of the event that reports it, and outlives the order.

use std::time::Duration;

use muster_schemas::{OperationId, Timestamp};
use redb::{ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::entry::{Entry, State};
use crate::store::{RUN_INPUTS, RUNS, Store, StoreError};

/// Retention of an entry after its order has expired.
const ENTRY_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads an entry.
pub(super) fn read(store: &Store, id: OperationId) -> Result<Option<Entry>, StoreError> {
    store.read(|transaction| {
        let table = transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
        let found = table.get(id.0.as_u128()).map_err(StoreError::database("read the journal"))?;
        found.map(|bytes| Entry::decode(bytes.value())).transpose()
    })
}

/// Reads all entries with their operations.
pub(super) fn read_all(store: &Store) -> Result<Vec<(OperationId, Entry)>, StoreError> {
    store.read(|transaction| {
        let table = transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
        let mut found = Vec::new();
        for row in table.iter().map_err(StoreError::database("read the journal"))? {
            let (id, bytes) = row.map_err(StoreError::database("read the journal"))?;
            found.push((OperationId(Uuid::from_u128(id.value())), Entry::decode(bytes.value())?));
        }
        Ok(found)
    })
}

/// Writes an entry in a transaction. The private part is erased as soon as the run has started.
pub(super) fn put(
    transaction: &WriteTransaction,
    id: OperationId,
    entry: &Entry,
) -> Result<(), StoreError> {
    let key = id.0.as_u128();
    let mut table = transaction.open_table(RUNS).map_err(StoreError::database("open a table"))?;
    table
        .insert(key, entry.encode().as_slice())
        .map_err(StoreError::database("write the journal"))?;
    if !matches!(entry.state, State::Accepted(_)) {
        let mut inputs =
            transaction.open_table(RUN_INPUTS).map_err(StoreError::database("open a table"))?;
        inputs.remove(key).map_err(StoreError::database("erase a private part"))?;
    }
    Ok(())
}

/// Stores the private part of a run until it starts.
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

/// Reads the private part of a run that has not started.
pub(super) fn read_input(store: &Store, id: OperationId) -> Result<Option<Vec<u8>>, StoreError> {
    store.read(|transaction| {
        let table =
            transaction.open_table(RUN_INPUTS).map_err(StoreError::database("open a table"))?;
        let found =
            table.get(id.0.as_u128()).map_err(StoreError::database("read a private part"))?;
        Ok(found.map(|bytes| bytes.value().to_vec()))
    })
}

/// Deletes entries that ended and expired long ago, unless `is_needed`. `now` is the server's time:
/// with a wrong clock of the device, an order that has not expired could be accepted again.
pub(super) fn prune(
    store: &Store,
    now: Timestamp,
    is_needed: impl Fn(OperationId) -> bool,
) -> Result<usize, StoreError> {
    let oldest = now - ENTRY_TTL;
    let old: Vec<_> = read_all(store)?
        .into_iter()
        .filter(|(id, entry)| {
            matches!(entry.state, State::Ended(_) | State::Barred)
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
    use muster_schemas::events::Action;

    use super::super::entry::StartedRun;
    use super::super::entry::tests::sample_order;
    use super::*;
    use crate::store::Folder;

    #[test]
    fn entries_are_kept_past_the_expiry_of_their_order_and_inputs_until_the_run_starts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Folder::open(dir.path()).unwrap()).unwrap();
        let id = |n| OperationId(Uuid::from_u128(n));
        let write = |n: u64, state, expires| {
            let entry = Entry { ticket: n, expires_at: Timestamp(expires), state };
            store.write(|transaction| put(transaction, id(n.into()), &entry)).unwrap();
        };
        write(1, State::Accepted(sample_order(Action::Reboot)), 1);
        store.write(|transaction| put_input(transaction, id(1), b"secret")).unwrap();
        assert_eq!(read_input(&store, id(1)).unwrap().as_deref(), Some(&b"secret"[..]));
        let run = StartedRun::now(sample_order(Action::Reboot));
        write(1, State::Started(Box::new(run)), 1);
        assert_eq!(read_input(&store, id(1)).unwrap(), None);
        write(2, State::Ended(None), 1);
        write(3, State::Barred, 1);
        write(4, State::Ended(None), 1);
        write(5, State::Ended(None), 10);
        let kept = |now, needed| {
            let pruned = prune(&store, Timestamp(now) + ENTRY_TTL, |it| it == id(needed)).unwrap();
            let left = read_all(&store).unwrap().into_iter().map(|(id, _)| id.0.as_u128());
            (pruned, left.collect::<Vec<_>>())
        };
        assert_eq!(kept(0, 4), (0, vec![1, 2, 3, 4, 5]));
        assert_eq!(kept(2, 4), (2, vec![1, 4, 5]), "what was begun stays, too");
        assert_eq!(kept(11, 9), (2, vec![1]));
    }
}
