//! Determines the client address of a request that a proxy forwarded, from the entries of
//! `X-Forwarded-For` that trusted proxies wrote.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderName;
use axum::middleware::Next;
use axum::response::Response;
use clap::Args;
use ipnet::IpNet;

/// Header to which each proxy appends the address of its peer.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Trusted proxies.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    /// Proxies whose X-Forwarded-For is trusted: addresses or networks, with commas
    ///
    /// List only proxies that write the header themselves, such as muster's query role in front of
    /// command. A proxy that passes TLS through cannot write it, so its clients could forge their
    /// address. For all other peers, the address of the connection is used.
    #[arg(
        long = "trusted-proxies", env = "MUSTER_TRUSTED_PROXIES", value_delimiter = ',',
        value_name = "NETWORK", value_parser = network
    )]
    networks: Vec<IpNet>,
}

/// Parses a network such as `10.0.0.0/8`, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| one())
        .map_err(|_| format!("'{text}' is neither an address nor a network, such as 10.0.0.0/8"))
}

/// Parses an address; some proxies append a port.
fn address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    hop.parse().or_else(|_| with_port()).ok()
}

impl TrustedProxies {
    pub(super) fn is_trusted(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Returns the client behind a connection from `peer`: the last address, from the right, that
    /// is not a trusted proxy.
    fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in forwarded_for.rev() {
            if !self.is_trusted(client) {
                break;
            }
            let Some(before) = address(hop.trim()) else { break };
            client = before.to_canonical();
        }
        client
    }
}

/// Middleware that replaces the connection's address by the client's.
pub(super) async fn set_client_address(
    State(proxies): State<Arc<TrustedProxies>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let lines = request.headers().get_all(FORWARDED_FOR);
    // An entry that cannot be parsed ends the search.
    let values: Vec<&str> = lines.iter().map(|line| line.to_str().unwrap_or("?")).collect();
    let client = proxies.client(peer.ip(), values.iter().flat_map(|line| line.split(',')));
    if client != peer.ip() {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_forwarded_for_is_used_only_from_trusted_proxies() {
        let networks = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(|text| network(text).unwrap());
        let proxies = TrustedProxies { networks: networks.to_vec() };
        for (peer, header, client) in [
            ("198.51.100.1", "", "198.51.100.1"),
            ("198.51.100.1", "203.0.113.9", "198.51.100.1"),
            ("10.1.2.3", "", "10.1.2.3"),
            ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
            // Entries that a client has forged are further to the left.
            ("10.1.2.3", "127.0.0.1, 203.0.113.9", "203.0.113.9"),
            ("10.1.2.3", "203.0.113.9, 192.0.2.7, 10.9.9.9", "203.0.113.9"),
            ("::ffff:10.1.2.3", "2001:db8::1", "2001:db8::1"),
            ("fd00::1", "203.0.113.9,nonsense", "fd00::1"),
            ("10.1.2.3", "10.1.2.4", "10.1.2.4"),
            ("10.1.2.3", "198.51.100.1,?", "10.1.2.3"),
            ("10.1.2.3", "198.51.100.1:4711", "198.51.100.1"),
            ("10.1.2.3", "[2001:db8::1]:443", "2001:db8::1"),
        ] {
            let hops = header.split(',').filter(|hop| !hop.is_empty());
            let found = proxies.client(peer.parse().unwrap(), hops);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} says '{header}'");
        }
        assert!(network("10.0.0.0/33").is_err() && network("door").is_err());
    }
}
