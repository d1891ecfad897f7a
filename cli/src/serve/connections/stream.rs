//! A connection that the registry counts while it is open, and that its listener can close.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Connections;

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

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

/// A TCP connection with its slot.
#[derive(Debug)]
pub(crate) struct CountedStream {
    inner: TcpStream,
    slot: Arc<Slot>,
    connections: Connections,
}

/// Returns the error of a connection that was closed because of a limit.
pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "a limit on connections is reached")
}

impl CountedStream {
    pub(super) fn new(inner: TcpStream, slot: Arc<Slot>, connections: Connections) -> Self {
        Self { inner, slot, connections }
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.connections.remove(&self.slot);
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.slot.is_closed() {
            return Poll::Ready(Err(closed()));
        }
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_pending() {
            self.slot.reader.register(context.waker());
            // Closed between the check above and the registration of the waker.
            if self.slot.is_closed() {
                return Poll::Ready(Err(closed()));
            }
        }
        read
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
