//! Recording of events by the agent's parts; the sender is notified of them.

use std::sync::Arc;
use std::time::Duration;

use muster_schemas::Event;
use redb::WriteTransaction;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{Outbox, RecordError};
use crate::clock::Moment;
use crate::store::StoreError;

/// Records events in an agent's outbox.
#[derive(Clone, Debug)]
pub struct Recorder {
    outbox: Arc<Outbox>,
    recorded: Arc<Notify>,
}

impl Recorder {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox, recorded: Arc::default() }
    }

    pub(crate) const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Records an event that happens now; it is on disk when this returns.
    ///
    /// # Errors
    /// When the outbox is full or the disk fails.
    pub fn record(&self, event: &Event) -> Result<u64, RecordError> {
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
    ) -> Result<u64, RecordError> {
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
    ) -> Result<u64, RecordError> {
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
        self.recorded.notify_one();
    }

    /// Notifies the sender after a delay, so that it sends several events together.
    pub(crate) fn notify_after(&self, delay: Duration) {
        let recorded = Arc::clone(&self.recorded);
        tokio::spawn(async move {
            sleep(delay).await;
            recorded.notify_one();
        });
    }

    /// Waits until an event is recorded.
    pub(crate) async fn recorded(&self) {
        self.recorded.notified().await;
    }
}
