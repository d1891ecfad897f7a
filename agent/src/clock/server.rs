//! The server's time, as far as this device knows it.

use std::sync::Arc;

use muster_schemas::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::moment::{Anchor, Moment};
use crate::store::{Store, StoreError, key};

/// The server's clock.
#[derive(Debug)]
pub(crate) struct ServerClock {
    store: Arc<Store>,
    /// The newest relation to the server's clock, also of an earlier process.
    anchor: Mutex<Option<Anchor>>,
    /// The one from the newest hello of this process.
    confirmed: watch::Sender<Option<Anchor>>,
}

impl ServerClock {
    /// Restores the relation that an earlier process stored.
    pub(crate) fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let anchor = store.get(key::ANCHOR)?;
        Ok(Self { store, anchor: Mutex::new(anchor), confirmed: watch::Sender::new(None) })
    }

    pub(crate) fn anchor(&self) -> Option<Anchor> {
        *self.anchor.lock()
    }

    /// Sets a newer relation to the server's clock.
    pub(crate) fn set(&self, anchor: Anchor) {
        *self.anchor.lock() = Some(anchor);
        if let Err(error) = self.store.put_relaxed(key::ANCHOR, &anchor) {
            tracing::debug!(%error, "failed to store the server's time");
        }
    }

    /// Sets the relation from a response to a hello of this process.
    pub(crate) fn confirm(&self, anchor: Anchor) {
        self.set(anchor);
        self.confirmed.send_replace(Some(anchor));
    }

    /// Follows the responses to hellos of this process.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Anchor>> {
        self.confirmed.subscribe()
    }

    /// Whether a hello of this process got its response.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.borrow().is_some()
    }

    /// Returns the server's time, from the newest hello of this process and the monotonic clock.
    pub(crate) fn confirmed_time(&self) -> Option<Timestamp> {
        let anchor = *self.confirmed.borrow();
        anchor?.server_time(&Moment::now())
    }

    /// Returns the server's time at a moment, also by a relation of an earlier process.
    pub(crate) fn server_time(&self, at: &Moment) -> Option<Timestamp> {
        self.anchor()?.server_time(at)
    }

    /// Returns the best known time at a moment.
    pub(crate) fn time(&self, at: &Moment) -> Timestamp {
        self.server_time(at).unwrap_or(at.wall)
    }

    /// The device's wall clock minus the server's, in microseconds.
    pub(crate) fn skew(&self, at: &Moment) -> Option<i64> {
        self.anchor().and_then(|anchor| anchor.skew(at))
    }
}
