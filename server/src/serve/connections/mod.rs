//! Limits on the connections to the HTTPS listener: in total, per client address, and for `/nats`
//! tunnels.
//!
//! Each connection is a file descriptor. The total leaves a reserve of descriptors for the
//! database, the broker and files, so that clients cannot exhaust what the API itself needs. When a
//! limit is reached, the connection that has been without a request in flight for the longest time
//! is closed in favor of the new one; if there is none, the new one is refused.
//!
//! Timeouts of handshakes and requests are set in `https_listener.rs`.

mod options;
mod registry;
mod slot;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use parking_lot::{Mutex, MutexGuard};

pub(crate) use options::ConnectionLimits;
pub(super) use registry::Refused;
use registry::Registry;
use slot::Slot;

use super::proxies::TrustedProxies;

const OPEN: &str = "muster_connections";
const REFUSED: &str = "muster_connections_refused_total";
const CLOSED: &str = "muster_connections_closed_total";

/// The connections of one listener; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Mutex<Registry>,
    /// Addresses that carry the connections of many clients.
    proxies: TrustedProxies,
}

/// A tunnel's permit; released on drop.
#[derive(Debug)]
pub(super) struct TunnelPermit {
    connections: Connections,
    client: IpAddr,
}

impl Connections {
    pub(super) fn new(limits: registry::Limits, proxies: TrustedProxies) -> Self {
        describe_gauge!(OPEN, "open connections to the HTTPS listener");
        describe_counter!(
            REFUSED,
            "connections and tunnels refused, by the limit that was reached"
        );
        describe_counter!(CLOSED, "connections closed before their first request, by cause");
        tracing::info!(
            total = limits.total,
            per_address = limits.per_address,
            tunnels = limits.tunnels,
            "limits on connections"
        );
        Self(Arc::new(Shared { registry: Mutex::new(Registry::new(limits)), proxies }))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }

    fn admit_peer(&self, peer: SocketAddr) -> Result<Arc<Slot>, Refused> {
        let is_limited = !self.0.proxies.is_trusted(peer.ip().to_canonical());
        let mut registry = self.registry();
        let entered = registry.admit(peer, is_limited);
        set_open(&registry);
        drop(registry);
        let (slot, closed) = entered.inspect_err(|refusal| refuse(peer.ip(), *refusal))?;
        if closed > 0 {
            counter!(CLOSED, "cause" => "pressure").increment(closed);
            tracing::warn!(
                address = %peer.ip(),
                "a limit on connections is reached; the oldest one without a request was closed"
            );
        }
        Ok(slot)
    }

    fn remove(&self, slot: &Slot) {
        let mut registry = self.registry();
        registry.remove(slot);
        set_open(&registry);
    }

    /// Admits one more tunnel of a client; its connection to the broker counts in the total.
    pub(super) fn tunnel(&self, client: IpAddr) -> Result<TunnelPermit, Refused> {
        let is_limited = !self.0.proxies.is_trusted(client.to_canonical());
        let opened = self.registry().open_tunnel(client, is_limited);
        opened.inspect_err(|refusal| refuse(client, *refusal))?;
        Ok(TunnelPermit { connections: self.clone(), client })
    }

    /// Counts a connection that failed before its first request.
    pub(super) fn failed(peer: Option<&SocketAddr>, error: &io::Error) {
        match peer {
            None => {
                counter!(REFUSED, "limit" => "descriptors").increment(1);
                tracing::warn!(%error, "failed to accept a connection");
            }
            // The registry has already counted those that it refused or closed.
            Some(_) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Some(_) => {
                let cause = if error.kind() == io::ErrorKind::TimedOut { "timeout" } else { "tls" };
                counter!(CLOSED, "cause" => cause).increment(1);
            }
        }
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        self.connections.registry().close_tunnel(self.client);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a graph")]
fn set_open(registry: &Registry) {
    gauge!(OPEN).set(registry.open() as f64);
}

fn refuse(address: IpAddr, refusal: Refused) {
    counter!(REFUSED, "limit" => refusal.as_str()).increment(1);
    tracing::warn!(%address, limit = refusal.as_str(), "a connection was refused");
}

/// A request in flight, until its response was sent completely.
struct InFlight {
    connections: Connections,
    /// Id of the connection; `None` when it counts as busy until it ends.
    id: Option<u64>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.connections.registry().end_request(id);
        }
    }
}

/// Body of a response, with its request in flight.
struct TrackedBody {
    body: Body,
    _request: InFlight,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Middleware that tracks requests in flight: a connection with one is not closed in favor of
/// another connection.
pub(super) async fn track_request(
    State(connections): State<Connections>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let id = connections.registry().start_request(peer);
    let mut in_flight = InFlight { connections, id };
    let response = next.run(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A websocket lasts until its connection ends.
        in_flight.id = None;
        return response;
    }
    response.map(|body| Body::new(TrackedBody { body, _request: in_flight }))
}
