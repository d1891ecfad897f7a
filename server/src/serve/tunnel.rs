//! `GET /nats`: access to the broker through the HTTPS listener, for devices that can reach only
//! its port.
//!
//! After the upgrade (`Upgrade: nats`, RFC 9110 §7.8), the bytes of the connection are relayed
//! unchanged. The broker verifies the device's TLS and its JWT; this process inspects neither.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use muster_api::Problem;
use muster_api::problem::Kind;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::connections::{Connections, Refused};

/// Name of the protocol in `Upgrade`.
const PROTOCOL: &str = "nats";
/// Timeout of a connection to the broker, which is on this machine or near it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Access to the broker.
#[derive(Clone, Debug)]
pub(super) struct Tunnel {
    brokers: Arc<Vec<(String, u16)>>,
    connections: Connections,
    stop: CancellationToken,
}

impl Tunnel {
    /// Creates a tunnel to the brokers that this process uses.
    pub(super) fn new(
        brokers: &[String],
        connections: Connections,
        stop: CancellationToken,
    ) -> Self {
        let brokers = brokers.iter().filter_map(|broker| address(broker)).collect();
        Self { brokers: Arc::new(brokers), connections, stop }
    }

    /// Connects to the first broker that accepts a connection.
    async fn connect(&self) -> Option<TcpStream> {
        for (host, port) in &*self.brokers {
            let connected =
                timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), *port))).await;
            if let Ok(Ok(broker)) = connected {
                let _ = broker.set_nodelay(true);
                return Some(broker);
            }
        }
        None
    }

    pub(super) fn router(self) -> Router {
        Router::new().route("/nats", get(open)).with_state(self)
    }
}

/// Returns host and port of a broker's address.
fn address(broker: &str) -> Option<(String, u16)> {
    let url: Url = broker.trim().parse().ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    (!host.is_empty()).then_some((host, url.port().unwrap_or(4222)))
}

async fn open(
    State(tunnel): State<Tunnel>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    let wish = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !wish.is_some_and(|wish| wish.eq_ignore_ascii_case(PROTOCOL)) {
        let headers = [(header::UPGRADE, PROTOCOL), (header::CONNECTION, "upgrade")];
        return (StatusCode::UPGRADE_REQUIRED, headers).into_response();
    }
    let permit = match tunnel.connections.tunnel(client.ip()) {
        Ok(permit) => permit,
        Err(Refused::TunnelsOfAddress) => {
            let detail = format!("too many tunnels from {}", client.ip());
            return Problem::new(Kind::TooManyRequests, detail).retry_after(30).into_response();
        }
        Err(_) => {
            return Problem::unavailable("too many tunnels are open", 30).into_response();
        }
    };
    let Some(mut broker) = tunnel.connect().await else {
        return Problem::unavailable("the broker is unavailable; try again", 2).into_response();
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _permit = permit;
        let Ok(device) = upgrade.await else { return };
        let mut device = TokioIo::new(device);
        tokio::select! {
            () = tunnel.stop.cancelled() => {}
            _ = copy_bidirectional(&mut device, &mut broker) => {}
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_address_is_parsed_into_host_and_port() {
        for (broker, expected) in [
            ("tls://127.0.0.1:4333", Some(("127.0.0.1", 4333))),
            (" tls://one", Some(("one", 4222))),
            ("nats://[::1]:7", Some(("::1", 7))),
            ("", None),
            ("tls://", None),
        ] {
            let found = address(broker);
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), expected);
        }
    }
}
