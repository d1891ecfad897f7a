//! A connection's entry in the registry, through which the registry can close it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

/// A connection's entry in the registry.
#[derive(Debug)]
pub(super) struct Slot {
    /// Id, greater than that of each older connection.
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    is_closed: AtomicBool,
    reader: AtomicWaker,
}

impl Slot {
    pub(super) fn new(id: u64, peer: SocketAddr) -> Self {
        Self { id, peer, is_closed: AtomicBool::new(false), reader: AtomicWaker::new() }
    }

    /// Makes the connection's pending or next read fail.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Registers the task that waits to read, which [`Self::close`] wakes.
    pub(super) fn register_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}
