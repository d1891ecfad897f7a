//! Going on in a new epoch, after a fork or a loss: what the log does not have is sealed again.
//!
//! Decides neither that a new epoch is needed nor its number: the log's word and the server do.
//!
//! Invariant: what an event says, and when it happened, never changes by being sealed again; only
//! its place does. All of it happens in one transaction.

use muster_schemas::Event;
use muster_schemas::events::{Cause, DeviceHistoryLost, LossCause};
use muster_schemas::wire::NewEpoch;
use muster_schemas::{Hash, Timestamp};
use redb::{ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::record::{self, Content};
use super::state::{Pending, State};
use super::{Outbox, confirm};
use crate::clock::Moment;
use crate::store::{self, EVENTS, StoreError, key};

impl Outbox {
    /// The new epoch that this device waits for, if any: its hello says so until it is granted.
    #[must_use]
    pub fn pending_epoch(&self) -> Option<NewEpoch> {
        self.state().pending.as_ref().map(|pending| pending.ask.clone())
    }

    /// A new epoch is needed: the log has something else than this device at `seq`, where this
    /// device has `own`. `request` is random. Asked for once, until it is granted.
    ///
    /// When that place is one that the log had already confirmed, the log was restored and another
    /// branch went on from there; where they part cannot be known. Then all that is still here is
    /// sealed again: better twice in the log than never.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn ask_after_fork(
        &self,
        seq: u64,
        own: Option<Hash>,
        request: Uuid,
    ) -> Result<(), StoreError> {
        let (epoch, confirmed) = {
            let state = self.state();
            (state.epoch, state.confirmed)
        };
        let common = if seq > confirmed { (epoch, confirmed) } else { (0, 0) };
        let ask = NewEpoch { cause: Cause::Fork, seq, hash: own, request };
        self.ask(Pending { ask, common })
    }

    /// A new epoch is needed: the newest that the log has is (`epoch`, `seq`), and it cannot go on
    /// from there.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn ask_after_loss(&self, epoch: u64, seq: u64, request: Uuid) -> Result<(), StoreError> {
        let ask = NewEpoch { cause: Cause::HistoryLost, seq, hash: None, request };
        self.ask(Pending { ask, common: (epoch, seq) })
    }

    fn ask(&self, pending: Pending) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.pending.is_some() {
            return Ok(());
        }
        let next = State { pending: Some(pending), ..state.clone() };
        self.store.put(key::OUTBOX, &next)?;
        *state = next;
        Ok(())
    }

    /// The new epoch is granted: seals what the log does not have in it, after saying what is
    /// lost. False when no new epoch was asked for, or this is none.
    ///
    /// # Errors
    /// When it cannot be stored; then everything is as before.
    pub fn enter_epoch(&self, epoch: u64, at: Moment) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(pending) = state.pending.clone() else { return Ok(false) };
        if epoch <= state.epoch {
            return Ok(false);
        }
        let mut next = State::new(epoch);
        next.dropped = state.dropped;
        next.before = epochs_before(&state, pending.common);
        self.store.write(|transaction| {
            if pending.ask.cause == Cause::HistoryLost {
                for (lost, first, last) in gaps(transaction, &state, pending.common)? {
                    let event = pruned(lost, first, last);
                    self.append(transaction, &mut next, Content::of(&event, at))?;
                }
            }
            self.seal_again(transaction, &mut next, pending.common)?;
            next.kept_bytes = kept(transaction, epoch)?;
            confirm::unmark(transaction, pending.common)?;
            store::put(transaction, key::OUTBOX, &next)
        })?;
        *state = next;
        Ok(true)
    }

    /// Moves what comes after `common`, in its order, into the new epoch.
    fn seal_again(
        &self,
        transaction: &WriteTransaction,
        next: &mut State,
        common: (u64, u64),
    ) -> Result<(), StoreError> {
        let open = || transaction.open_table(EVENTS).map_err(StoreError::database("open a table"));
        let new = next.epoch;
        loop {
            // One at a time: an outbox may be larger than the memory that the agent may use.
            let taken = {
                let mut events = open()?;
                let place = events
                    .range((common.0, common.1.saturating_add(1))..(new, 0))
                    .map_err(StoreError::database("read events"))?
                    .next()
                    .transpose()
                    .map_err(StoreError::database("read events"))?
                    .map(|(place, _)| place.value());
                let Some(place) = place else { return Ok(()) };
                let removed =
                    events.remove(place).map_err(StoreError::database("move an event"))?;
                removed.map(|bytes| bytes.value().to_vec())
            };
            let Some(bytes) = taken else { return Ok(()) };
            let envelope = record::open(&bytes)?;
            let at = Moment { boot: envelope.boot, mono: envelope.mono, wall: envelope.time };
            let (kind, version, data) = (envelope.kind.as_str(), envelope.version, envelope.data);
            self.append(transaction, next, Content { kind, version, data, at })?;
        }
    }
}

/// The epochs that the log has a part of, up to the common place.
fn epochs_before(state: &State, common: (u64, u64)) -> Vec<(u64, u64)> {
    let mut before: Vec<(u64, u64)> =
        state.before.iter().copied().filter(|(epoch, _)| *epoch < common.0).collect();
    if common.0 > 0 {
        before.push(common);
    }
    before
}

/// What the log does not have and is no longer here either: per epoch, the first and last place.
fn gaps(
    transaction: &WriteTransaction,
    state: &State,
    common: (u64, u64),
) -> Result<Vec<(u64, u64, u64)>, StoreError> {
    let events = transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let known = state.before.iter().copied().chain([(state.epoch, state.last_seq)]);
    let mut gaps = Vec::new();
    for (epoch, last) in known.filter(|(epoch, _)| *epoch >= common.0) {
        let first = if epoch == common.0 { common.1 + 1 } else { 1 };
        let here = events
            .range((epoch, first)..=(epoch, u64::MAX))
            .map_err(StoreError::database("read events"))?
            .next()
            .transpose()
            .map_err(StoreError::database("read events"))?
            .map(|(place, _)| place.value().1);
        let lost_to = here.map_or(last, |here| here - 1);
        if lost_to >= first {
            gaps.push((epoch, first, lost_to));
        }
    }
    Ok(gaps)
}

/// The size of what stays of the epochs before.
fn kept(transaction: &WriteTransaction, epoch: u64) -> Result<u64, StoreError> {
    let events = transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let mut bytes = 0;
    for entry in events.range(..(epoch, 0)).map_err(StoreError::database("read events"))? {
        let (_, value) = entry.map_err(StoreError::database("read events"))?;
        bytes += record::len(value.value());
    }
    Ok(bytes)
}

fn pruned(epoch: u64, first: u64, last: u64) -> Event {
    DeviceHistoryLost {
        cause: LossCause::Pruned,
        epoch,
        first_seq: Some(first),
        last_seq: Some(last),
        count: Some(last - first + 1),
        // Times went with the events.
        first_time: None::<Timestamp>,
        last_time: None,
    }
    .into()
}
