//! Confirmed events: recording the confirmation, undoing it, and pruning old events.

use muster_schemas::{Epoch, Seq, Timestamp};
use redb::{ReadableTable, WriteTransaction};

use super::state::State;
use super::{Outbox, record};
use crate::store::{self, AGE_ENTRIES, EVENTS, StoreError, event_key, event_of_key, key};

/// Interval between the age entries of events, in microseconds: the precision of an event's age.
const AGE_ENTRY_INTERVAL_MICROS: i64 = 3600 * 1_000_000;

/// Maximum number of events that one transaction prunes, so that each is short.
const MAX_PRUNED_PER_TRANSACTION: usize = 1000;

impl Outbox {
    /// Records that the log has everything up to `seq` of this epoch. `now` is the best known time,
    /// by which retention is computed.
    ///
    /// A crash may undo the confirmation; then some events are sent again.
    ///
    /// # Errors
    /// When the store fails.
    pub fn confirm(&self, seq: Seq, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state();
        if seq <= state.confirmed || seq > state.last_seq {
            return Ok(());
        }
        let mut next = state.clone();
        self.store.write_relaxed(|transaction| {
            let bytes = bytes_between(transaction, next.epoch, next.confirmed, seq)?;
            next.unconfirmed_bytes = next.unconfirmed_bytes.saturating_sub(bytes);
            next.kept_bytes = next.kept_bytes.saturating_add(bytes);
            next.confirmed = seq;
            // While a new epoch is requested: events that the log has confirmed meanwhile keep
            // their position.
            if let Some(pending) = &mut next.pending
                && pending.common.0 == next.epoch
            {
                pending.common.1 = pending.common.1.max(seq);
            }
            insert_age_entry(transaction, (next.epoch, seq), now)?;
            store::put(transaction, key::OUTBOX, &next)
        })?;
        *state = next;
        Ok(())
    }

    /// Handles a log that has lost the events after `seq` of this epoch: they will be sent again.
    ///
    /// # Errors
    /// When the store fails.
    pub fn rewind(&self, seq: Seq) -> Result<(), StoreError> {
        let mut state = self.state();
        if seq >= state.confirmed {
            return Ok(());
        }
        let mut next = state.clone();
        self.store.write(|transaction| {
            let bytes = bytes_between(transaction, next.epoch, seq, next.confirmed)?;
            next.unconfirmed_bytes = next.unconfirmed_bytes.saturating_add(bytes);
            next.kept_bytes = next.kept_bytes.saturating_sub(bytes);
            next.confirmed = seq;
            remove_age_entries(transaction, (next.epoch, seq))?;
            store::put(transaction, key::OUTBOX, &next)
        })?;
        *state = next;
        Ok(())
    }

    /// Prunes confirmed events that are past their retention or beyond the maximum size, oldest
    /// first. Returns true if there is more to prune.
    ///
    /// # Errors
    /// When the store fails.
    pub fn prune(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut state = self.state();
        let mut next = state.clone();
        let oldest = now - self.limits.kept_for;
        let has_more = self.store.write(|transaction| {
            let expired = expired(transaction, oldest)?;
            let has_more = prune(transaction, &mut next, expired, self.limits.kept_bytes)?;
            store::put(transaction, key::OUTBOX, &next)?;
            Ok(has_more)
        })?;
        *state = next;
        Ok(has_more)
    }
}

/// Returns the size of the events after `from` up to and including `to`.
fn bytes_between(
    transaction: &WriteTransaction,
    epoch: Epoch,
    from: Seq,
    to: Seq,
) -> Result<u64, StoreError> {
    let events = transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let range = events
        .range(event_key((epoch, from.next()))..=event_key((epoch, to)))
        .map_err(StoreError::database("read events"))?;
    let mut bytes = 0;
    for entry in range {
        let (_, value) = entry.map_err(StoreError::database("read events"))?;
        bytes += record::len(value.value());
    }
    Ok(bytes)
}

fn insert_age_entry(
    transaction: &WriteTransaction,
    position: (Epoch, Seq),
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut ages =
        transaction.open_table(AGE_ENTRIES).map_err(StoreError::database("open a table"))?;
    // The start of the next hour: an event is kept up to an hour longer, never shorter, because the
    // entry of an hour is moved to the newest event of that hour.
    let hour = now
        .micros()
        .div_euclid(AGE_ENTRY_INTERVAL_MICROS)
        .saturating_add(1)
        .saturating_mul(AGE_ENTRY_INTERVAL_MICROS);
    ages.insert(hour, event_key(position)).map_err(StoreError::database("store a time mark"))?;
    Ok(())
}

/// Removes the age entries of events that are no longer confirmed.
pub(super) fn remove_age_entries(
    transaction: &WriteTransaction,
    after: (Epoch, Seq),
) -> Result<(), StoreError> {
    let mut ages =
        transaction.open_table(AGE_ENTRIES).map_err(StoreError::database("open a table"))?;
    ages.retain(|_, position| event_of_key(position) <= after)
        .map_err(StoreError::database("remove time marks"))
}

/// Returns the newest event that was confirmed before a time; removes its age entry and the earlier
/// ones.
fn expired(
    transaction: &WriteTransaction,
    oldest: Timestamp,
) -> Result<Option<(Epoch, Seq)>, StoreError> {
    let mut ages =
        transaction.open_table(AGE_ENTRIES).map_err(StoreError::database("open a table"))?;
    let newest = ages
        .range(..=oldest.micros())
        .map_err(StoreError::database("read time marks"))?
        .next_back()
        .transpose()
        .map_err(StoreError::database("read time marks"))?
        .map(|(_, position)| position.value());
    if newest.is_some() {
        // The newest entry stays until all of its events are pruned.
        ages.retain(|hour, position| hour > oldest.micros() || Some(position) == newest)
            .map_err(StoreError::database("remove time marks"))?;
    }
    Ok(newest.map(event_of_key))
}

fn prune(
    transaction: &WriteTransaction,
    state: &mut State,
    expired: Option<(Epoch, Seq)>,
    kept_bytes: u64,
) -> Result<bool, StoreError> {
    let confirmed = (state.epoch, state.confirmed);
    let mut events =
        transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    for _ in 0..MAX_PRUNED_PER_TRANSACTION {
        let Some((position, bytes)) = events
            .first()
            .map_err(StoreError::database("read events"))?
            .map(|(position, value)| (event_of_key(position.value()), record::len(value.value())))
        else {
            return Ok(false);
        };
        let is_old = expired.is_some_and(|expired| position <= expired);
        let is_too_much = state.kept_bytes > kept_bytes;
        if position > confirmed || !(is_old || is_too_much) {
            return Ok(false);
        }
        events.remove(event_key(position)).map_err(StoreError::database("remove an event"))?;
        state.kept_bytes = state.kept_bytes.saturating_sub(bytes);
    }
    Ok(true)
}
