//! Accepts connections; the registry counts each one while it is open, and can close it.

use std::future::{Ready, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Connections;
use super::slot::Slot;

/// A TCP connection with its slot.
#[derive(Debug)]
pub(crate) struct CountedStream {
    inner: TcpStream,
    slot: Arc<Slot>,
    connections: Connections,
}

/// Returns the error of a connection that was closed because of a limit.
fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "a limit on connections is reached")
}

impl<S> Accept<TcpStream, S> for Connections {
    type Stream = CountedStream;
    type Service = S;
    type Future = Ready<io::Result<(CountedStream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.admit(stream).map(|stream| (stream, service)))
    }
}

impl Connections {
    fn admit(&self, stream: TcpStream) -> io::Result<CountedStream> {
        // Without it, small messages would wait 40 ms for an acknowledgement.
        stream.set_nodelay(true)?;
        let slot = self.admit_peer(stream.peer_addr()?).map_err(|_| closed())?;
        Ok(CountedStream { inner: stream, slot, connections: self.clone() })
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
            self.slot.register_reader(context.waker());
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
