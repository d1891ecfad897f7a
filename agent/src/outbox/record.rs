//! Recording: sealing an event and storing it, or counting it as dropped when the outbox is full.

use muster_schemas::envelope::MAX_EVENT_BYTES;
use muster_schemas::events::{DeviceHistoryLost, LossCause};
use muster_schemas::{DeviceEnvelope, Epoch, Event, Seq, SigningKey, Timestamp};
use redb::WriteTransaction;
use serde::Serialize;

use super::Outbox;
use super::envelope::Content;
use super::state::{Dropped, State};
use crate::clock::Moment;
use crate::store::{self, EVENTS, StoreError, event_key, key};

/// The reason why an event was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The outbox is full.
    #[error(
        "the outbox is full ({limit} bytes are pending); {kind} was dropped and counted; bring \
         the device online"
    )]
    Full {
        /// Type of the event.
        kind: &'static str,
        /// Maximum size of the unconfirmed events, in bytes.
        limit: u64,
    },
    /// The event is larger than the log accepts.
    #[error("{kind} of {bytes} bytes is too large for an event; the limit is {MAX_EVENT_BYTES}")]
    TooLarge {
        /// Type of the event.
        kind: &'static str,
        /// Sealed size of the event, in bytes.
        bytes: usize,
    },
    /// Storing the event failed.
    #[error("failed to record {kind}")]
    Store {
        /// Type of the event.
        kind: &'static str,
        /// Error of the store.
        source: StoreError,
    },
}

impl Outbox {
    /// Records an event that happened at a moment. It is on disk when this returns.
    ///
    /// # Errors
    /// When the outbox is full or the disk fails. The event is then counted as dropped, and an
    /// event reports the number of dropped events as soon as there is room.
    pub fn record(&self, event: &Event, at: Moment) -> Result<Seq, RecordError> {
        self.record_with::<()>(event, at, None)
    }

    /// Like [`Self::record`], and stores a small value in the same transaction.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn record_with<T: Serialize>(
        &self,
        event: &Event,
        at: Moment,
        value: Option<(&'static str, &T)>,
    ) -> Result<Seq, RecordError> {
        let outcome = self.record_in_transaction(event, at, |transaction| match value {
            Some((name, value)) => store::put(transaction, name, value),
            None => Ok(()),
        });
        // An event that is too large can never be recorded; its caller must report that.
        if let Err(RecordError::Full { .. } | RecordError::Store { .. }) = &outcome {
            self.count_dropped(&mut self.state(), at.wall);
        }
        outcome
    }

    /// Records an event in the same transaction as the writes of `beside`. An event that is not
    /// recorded does not count as dropped: the caller will retry, or has not acted yet.
    ///
    /// # Errors
    /// When the outbox is full or the disk fails; then neither the event nor the writes are stored.
    pub(crate) fn record_in_transaction(
        &self,
        event: &Event,
        at: Moment,
        write: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<Seq, RecordError> {
        self.record_all_in_transaction(&[(event, at)], write)
    }

    /// Like [`Self::record_in_transaction`], for several events: all of them are recorded, or none.
    ///
    /// # Errors
    /// As [`Self::record_in_transaction`].
    pub(crate) fn record_all_in_transaction(
        &self,
        events: &[(&Event, Moment)],
        write: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<Seq, RecordError> {
        let mut state = self.state();
        let mut next = state.clone();
        // Before any write: a caller that retries in a loop would wear out the flash.
        let sealed = self.seal_all(&mut next, self.keys().current(), events)?;
        let outcome = self.store.write(|transaction| {
            let mut at = state.clone();
            for bytes in &sealed {
                insert(transaction, &mut at, bytes)?;
            }
            store::put(transaction, key::OUTBOX, &next)?;
            write(transaction)
        });
        let kind = events.first().map_or("nothing", |(event, _)| event.kind());
        outcome.map_err(|source| RecordError::Store { kind, source })?;
        *state = next;
        Ok(state.last_seq)
    }

    /// Seals events after `next`, preceded by the report of dropped events, and advances `next`.
    fn seal_all(
        &self,
        next: &mut State,
        key: &SigningKey,
        events: &[(&Event, Moment)],
    ) -> Result<Vec<Vec<u8>>, RecordError> {
        let room = self.limits.unconfirmed_bytes;
        let mut all = Vec::with_capacity(events.len());
        if let (Some(dropped), [(_, at), ..]) = (next.dropped, events)
            && next.unconfirmed_bytes < room
        {
            let lost = outbox_full(next.epoch, dropped);
            let sealed = self.seal(next, key, Content::from_event(&lost, *at));
            next.dropped = None;
            next.advance(&sealed);
            all.push(sealed);
        }
        for (event, at) in events {
            let kind = event.kind();
            let sealed = self.seal(next, key, Content::from_event(event, *at));
            if sealed.len() > MAX_EVENT_BYTES {
                return Err(RecordError::TooLarge { kind, bytes: sealed.len() });
            }
            if next.unconfirmed_bytes.saturating_add(len(&sealed)) > room {
                return Err(RecordError::Full { kind, limit: room });
            }
            next.advance(&sealed);
            all.push(sealed);
        }
        Ok(all)
    }

    /// Records the report of dropped events when there is room again. Call it after a confirmation.
    ///
    /// # Errors
    /// When the store fails; the events stay counted.
    pub fn record_dropped(&self, at: Moment) -> Result<(), StoreError> {
        let mut state = self.state();
        let Some(dropped) = state.dropped else { return Ok(()) };
        // Not at the first free byte: events that follow immediately would be dropped again.
        if state.unconfirmed_bytes > self.limits.unconfirmed_bytes / 2 {
            return Ok(());
        }
        let mut next = state.clone();
        let lost = outbox_full(next.epoch, dropped);
        self.store.write(|transaction| {
            self.append(
                transaction,
                &mut next,
                self.keys().current(),
                Content::from_event(&lost, at),
            )?;
            next.dropped = None;
            store::put(transaction, key::OUTBOX, &next)
        })?;
        *state = next;
        Ok(())
    }

    fn count_dropped(&self, state: &mut State, at: Timestamp) {
        let dropped = state.dropped.get_or_insert(Dropped { count: 0, first: at, last: at });
        dropped.count += 1;
        dropped.first = dropped.first.min(at);
        dropped.last = dropped.last.max(at);
        // The disk itself may be full; then the count is only in memory until the next event.
        if let Err(error) = self.store.put_relaxed(key::OUTBOX, &*state) {
            tracing::debug!(%error, "failed to store the number of dropped events");
        }
    }

    /// Seals an event with the next sequence number.
    fn seal(&self, state: &State, key: &SigningKey, content: Content<'_>) -> Vec<u8> {
        DeviceEnvelope {
            project: self.project.clone(),
            device: self.device,
            epoch: state.epoch,
            seq: state.last_seq + 1,
            prev: state.tip,
            boot: content.at.boot,
            mono: content.at.mono,
            time: content.at.wall,
            kind: content.kind.to_owned(),
            version: content.version,
            data: content.data,
        }
        .seal(key)
    }

    /// Seals an event with the next sequence number and stores it, regardless of the limit.
    pub(super) fn append(
        &self,
        transaction: &WriteTransaction,
        state: &mut State,
        key: &SigningKey,
        content: Content<'_>,
    ) -> Result<(), StoreError> {
        let sealed = self.seal(state, key, content);
        insert(transaction, state, &sealed)
    }
}

fn insert(
    transaction: &WriteTransaction,
    state: &mut State,
    sealed: &[u8],
) -> Result<(), StoreError> {
    let mut events =
        transaction.open_table(EVENTS).map_err(StoreError::database("open a table"))?;
    let position = (state.epoch, state.last_seq.next());
    events.insert(event_key(position), sealed).map_err(StoreError::database("store an event"))?;
    state.advance(sealed);
    Ok(())
}

pub(super) fn len(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

fn outbox_full(epoch: Epoch, dropped: Dropped) -> Event {
    DeviceHistoryLost {
        cause: LossCause::OutboxFull,
        epoch,
        first_seq: None,
        last_seq: None,
        count: Some(dropped.count),
        first_time: Some(dropped.first),
        last_time: Some(dropped.last),
    }
    .into()
}
