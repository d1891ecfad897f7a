//! Continuing in a new epoch after a fork or a loss: events that the log does not have are sealed
//! again.
//!
//! The log's head determines that a new epoch is needed, and the server its number.
//!
//! Invariant: sealing an event again never changes its content or its time, only its position. All
//! of it happens in one transaction.

use muster_schemas::events::{Cause, DeviceHistoryLost, LossCause};
use muster_schemas::wire::NewEpoch;
use muster_schemas::{Epoch, Event, Hash, Seq, Timestamp};
use redb::{ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::envelope::{self, Content};
use super::keys::Prover;
use super::record;
use super::rotation::ROTATED;
use super::state::{Pending, State};
use super::{Outbox, confirm};
use crate::clock::Moment;
use crate::store::{self, EVENTS, StoreError, event_key, event_of_key, key};

impl Outbox {
    /// Returns the pending request for a new epoch, if any: each hello contains it until it is
    /// granted.
    #[must_use]
    pub fn pending_epoch(&self) -> Option<NewEpoch> {
        self.state().pending.as_ref().map(|pending| pending.ask.clone())
    }

    /// Requests a new epoch after a fork: at `seq`, the log has an event other than this device's
    /// `own`. `request` is random. The request stays the same until it is granted.
    ///
    /// If the log had already confirmed that position, the log was restored and another branch
    /// continued from there; the position at which they diverged is unknown. Then all events that
    /// are still here are sealed again: an event that is twice in the log is better than a lost
    /// one.
    ///
    /// # Errors
    /// When the store fails.
    pub fn request_epoch_after_fork(
        &self,
        seq: Seq,
        own: Option<Hash>,
        request: Uuid,
    ) -> Result<(), StoreError> {
        let (epoch, confirmed) = {
            let state = self.state();
            (state.epoch, state.confirmed)
        };
        let common = if seq > confirmed { (epoch, confirmed) } else { (Epoch::ZERO, Seq::ZERO) };
        let ask = NewEpoch { cause: Cause::Fork, seq, hash: own, request };
        self.store_request(Pending { ask, common })
    }

    /// Requests a new epoch after a loss: the newest event of the log is (`epoch`, `seq`), and this
    /// device cannot continue from there.
    ///
    /// # Errors
    /// When the store fails.
    pub fn request_epoch_after_loss(
        &self,
        epoch: Epoch,
        seq: Seq,
        request: Uuid,
    ) -> Result<(), StoreError> {
        let ask = NewEpoch { cause: Cause::HistoryLost, seq, hash: None, request };
        self.store_request(Pending { ask, common: (epoch, seq) })
    }

    fn store_request(&self, pending: Pending) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.pending.is_some() {
            return Ok(());
        }
        let next = State { pending: Some(pending), ..state.clone() };
        self.store.put(key::OUTBOX, &next)?;
        *state = next;
        Ok(())
    }

    /// Enters the granted epoch: declares the lost events, then seals the events that the log does
    /// not have. Returns false if no new epoch was requested, or this is not a new one.
    ///
    /// `by` is the key by which the server knew this device. If it is the previous one, the new
    /// epoch starts with the rotation: its proof names the epoch, so the earlier event is not
    /// sufficient.
    ///
    /// # Errors
    /// When the store fails; then nothing has changed.
    pub fn enter_epoch(
        &self,
        epoch: Epoch,
        at: Moment,
        prover: Prover,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(pending) = state.pending.clone() else { return Ok(false) };
        if epoch <= state.epoch {
            return Ok(false);
        }
        let mut next = State::new(epoch);
        next.dropped = state.dropped;
        next.before = epochs_before(&state, pending.common);
        let keys = self.store.write(|transaction| {
            let keys = match prover {
                Prover::Previous => self.announce_rotation(transaction, &mut next, at)?,
                Prover::Current => None,
            };
            if pending.ask.cause == Cause::HistoryLost {
                for run in gaps(transaction, &state, pending.common)? {
                    self.declare(transaction, &mut next, LossCause::Pruned, run, at)?;
                }
            }
            self.reseal(transaction, &mut next, &state, pending.common, at)?;
            next.kept_bytes = kept_bytes(transaction, epoch)?;
            confirm::remove_age_entries(transaction, pending.common)?;
            store::put(transaction, key::OUTBOX, &next)?;
            Ok(keys)
        })?;
        if let Some(keys) = keys {
            self.set_keys(keys);
        }
        *state = next;
        Ok(true)
    }

    /// Moves the events after `common`, in order, into the new epoch. Damaged or missing events are
    /// declared lost at their old position.
    fn reseal(
        &self,
        transaction: &WriteTransaction,
        next: &mut State,
        old: &State,
        common: (Epoch, Seq),
        at: Moment,
    ) -> Result<(), StoreError> {
        let keys = self.keys();
        let mut losses = Losses::default();
        // One at a time: an outbox may be larger than the memory that the agent may use.
        while let Some((position, bytes)) = take_after(transaction, common, next.epoch)? {
            let is_intact = keys.is_intact(position, &bytes);
            if let Some(run) = losses.add(position, is_intact) {
                self.declare(transaction, next, LossCause::Damaged, run, at)?;
            }
            if !is_intact {
                continue;
            }
            let envelope = envelope::open(&bytes)?;
            // The log has the rotation, or the new epoch started with another one.
            if envelope.kind == ROTATED {
                continue;
            }
            let at = Moment { boot: envelope.boot, mono: envelope.mono, wall: envelope.time };
            let (kind, version, data) = (envelope.kind.as_str(), envelope.version, envelope.data);
            let content = Content { kind, version, data, at };
            self.append(transaction, next, keys.current(), content)?;
        }
        match losses.finish((old.epoch, old.last_seq)) {
            Some(run) => self.declare(transaction, next, LossCause::Damaged, run, at),
            None => Ok(()),
        }
    }

    fn declare(
        &self,
        transaction: &WriteTransaction,
        next: &mut State,
        cause: LossCause,
        range: EventRange,
        at: Moment,
    ) -> Result<(), StoreError> {
        let event = loss_event(cause, range);
        self.append(transaction, next, self.keys().current(), Content::from_event(&event, at))
    }
}

/// Consecutive positions: epoch, first and last sequence number.
type EventRange = (Epoch, Seq, Seq);

/// Finds damaged or missing events in an ordered sequence.
#[derive(Debug, Default)]
struct Losses {
    /// The previous position.
    last: Option<(Epoch, Seq)>,
    /// The damaged events that are not declared yet.
    undeclared: Option<EventRange>,
}

impl Losses {
    /// Adds the event at a position. Returns the damaged run that ended before it, if any.
    fn add(&mut self, (epoch, seq): (Epoch, Seq), is_intact: bool) -> Option<EventRange> {
        let before = self.last.replace((epoch, seq));
        let (ended, first) = match (self.undeclared.take(), before) {
            (Some(run), _) if run.0 == epoch => (None, run.1),
            (run, Some(last)) if last.0 == epoch => (run, last.1 + 1),
            (run, _) => (run, seq),
        };
        if is_intact {
            ended.or_else(|| (first < seq).then(|| (epoch, first, seq.previous())))
        } else {
            self.undeclared = Some((epoch, first, seq));
            ended
        }
    }

    /// Ends the sequence, given the newest position that was ever recorded.
    fn finish(self, newest: (Epoch, Seq)) -> Option<EventRange> {
        match (self.undeclared, self.last) {
            (Some(run), _) if run.0 == newest.0 => Some((run.0, run.1, newest.1)),
            (Some(run), _) => Some(run),
            (None, Some(last)) if last.0 == newest.0 && last.1 < newest.1 => {
                Some((last.0, last.1 + 1, newest.1))
            }
            _ => None,
        }
    }
}

/// A position, and the bytes that were stored there.
type TakenEvent = ((Epoch, Seq), Vec<u8>);

/// Removes and returns the first event after a position and before an epoch.
fn take_after(
    transaction: &WriteTransaction,
    common: (Epoch, Seq),
    new: Epoch,
) -> Result<Option<TakenEvent>, StoreError> {
    let mut events =
        transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let position = events
        .range(event_key((common.0, common.1.next()))..event_key((new, Seq::ZERO)))
        .map_err(StoreError::database("read events"))?
        .next()
        .transpose()
        .map_err(StoreError::database("read events"))?
        .map(|(position, _)| position.value());
    let Some(position) = position else { return Ok(None) };
    let removed = events.remove(position).map_err(StoreError::database("move an event"))?;
    Ok(removed.map(|bytes| (event_of_key(position), bytes.value().to_vec())))
}

/// Returns the epochs of which the log has a part, up to the common position.
fn epochs_before(state: &State, common: (Epoch, Seq)) -> Vec<(Epoch, Seq)> {
    let mut before: Vec<(Epoch, Seq)> =
        state.before.iter().copied().filter(|(epoch, _)| *epoch < common.0).collect();
    if common.0 > Epoch::ZERO {
        before.push(common);
    }
    before
}

/// Returns the events that neither the log nor this device has: per epoch, the first and last
/// sequence number.
fn gaps(
    transaction: &WriteTransaction,
    state: &State,
    common: (Epoch, Seq),
) -> Result<Vec<EventRange>, StoreError> {
    let events = transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let epochs = state.before.iter().copied().chain([(state.epoch, state.last_seq)]);
    let mut gaps = Vec::new();
    for (epoch, last) in epochs.filter(|(epoch, _)| *epoch >= common.0) {
        let first = if epoch == common.0 { common.1 + 1 } else { Seq::FIRST };
        let here = events
            .range(event_key((epoch, first))..=event_key((epoch, Seq(u64::MAX))))
            .map_err(StoreError::database("read events"))?
            .next()
            .transpose()
            .map_err(StoreError::database("read events"))?
            .map(|(position, _)| event_of_key(position.value()).1);
        let lost_to = here.map_or(last, Seq::previous);
        if lost_to >= first {
            gaps.push((epoch, first, lost_to));
        }
    }
    Ok(gaps)
}

/// Returns the size of the kept events of earlier epochs.
fn kept_bytes(transaction: &WriteTransaction, epoch: Epoch) -> Result<u64, StoreError> {
    let events = transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let mut bytes = 0;
    for entry in events
        .range(..event_key((epoch, Seq::ZERO)))
        .map_err(StoreError::database("read events"))?
    {
        let (_, value) = entry.map_err(StoreError::database("read events"))?;
        bytes += record::len(value.value());
    }
    Ok(bytes)
}

fn loss_event(cause: LossCause, (epoch, first, last): EventRange) -> Event {
    DeviceHistoryLost {
        cause,
        epoch,
        first_seq: Some(first),
        last_seq: Some(last),
        count: Some(last.since(first) + 1),
        // The times were pruned with the events.
        first_time: None::<Timestamp>,
        last_time: None,
    }
    .into()
}
