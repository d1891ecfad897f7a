//! Recording of events by the agent's parts; the sender is notified of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_schemas::{Event, Seq};
use parking_lot::{Mutex, MutexGuard};
use redb::WriteTransaction;
use serde::Serialize;
use tokio::sync::Notify;

use super::{Outbox, RecordError};
use crate::clock::Moment;
use crate::store::StoreError;

/// Records events in an agent's outbox.
#[derive(Clone, Debug)]
pub struct Recorder {
    outbox: Arc<Outbox>,
    recorded: Arc<Notify>,
    /// Time until which the sender waits for more events.
    held_until: Arc<Mutex<Option<Instant>>>,
}

impl Recorder {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox, recorded: Arc::default(), held_until: Arc::default() }
    }

    pub(crate) const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Records an event that happens now; it is on disk when this returns.
    ///
    /// # Errors
    /// When the outbox is full or the disk fails.
    pub fn record(&self, event: &Event) -> Result<Seq, RecordError> {
        let seq = self.outbox.record(event, Moment::now())?;
        self.notify();
        Ok(seq)
    }

    /// Like [`Self::record`], and stores a small value in the same transaction.
    pub(crate) fn record_with<T: Serialize>(
        &self,
        event: &Event,
        name: &'static str,
        value: &T,
    ) -> Result<Seq, RecordError> {
        let seq = self.outbox.record_with(event, Moment::now(), Some((name, value)))?;
        self.notify();
        Ok(seq)
    }

    /// Records events in one transaction with the writes of `write`: all of it is stored, or
    /// nothing. An event that is not recorded does not count as dropped.
    pub(crate) fn record_in_transaction(
        &self,
        events: &[(&Event, Moment)],
        write: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<Seq, RecordError> {
        let seq = self.outbox.record_all_in_transaction(events, write)?;
        self.notify();
        Ok(seq)
    }

    /// Creates a new signing key, as [`Outbox::rotate`] does.
    pub(crate) fn rotate(&self, request: i64) -> Result<bool, StoreError> {
        let is_new = self.outbox.rotate(request, Moment::now())?;
        if is_new {
            self.notify();
        }
        Ok(is_new)
    }

    /// Notifies the sender that an event was recorded.
    pub(crate) fn notify(&self) {
        *self.hold() = None;
        self.recorded.notify_one();
    }

    /// Makes the sender wait for the next event, at most this long, so that it sends both together.
    pub(crate) fn hold_back(&self, limit: Duration) {
        self.hold().get_or_insert_with(|| Instant::now() + limit);
    }

    /// Returns until when the sender has to wait; `None` if it may send now.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        let mut hold = self.hold();
        *hold = hold.filter(|until| *until > now);
        *hold
    }

    fn hold(&self) -> MutexGuard<'_, Option<Instant>> {
        self.held_until.lock()
    }

    /// Waits until an event is recorded.
    pub(crate) async fn recorded(&self) {
        self.recorded.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Limits, tests::outbox};

    #[test]
    fn events_are_held_back_until_the_next_one_or_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(Arc::new(outbox(dir.path(), Limits::default())));
        let now = Instant::now();
        assert_eq!(recorder.held_until(now), None);
        recorder.hold_back(Duration::from_secs(1));
        let until = recorder.held_until(now).unwrap();
        recorder.hold_back(Duration::from_secs(5));
        assert_eq!(recorder.held_until(now), Some(until), "a second order does not extend it");
        assert_eq!(recorder.held_until(until), None);
        recorder.hold_back(Duration::from_secs(5));
        recorder.notify();
        assert_eq!(recorder.held_until(now), None);
    }
}
