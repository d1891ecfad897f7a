//! Whose request it is that a proxy sends on: what `X-Forwarded-For` says, as far as it was written
//! by those who are trusted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderName;
use axum::middleware::Next;
use axum::response::Response;
use clap::Args;
use ipnet::IpNet;

/// Each proxy appends whom it heard.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who is believed.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    /// Proxies whose X-Forwarded-For is believed, a front door of muster among them: addresses or
    /// networks, with commas. Only such as write it themselves; one that passes TLS through cannot,
    /// and what came through it would be the client's own word. Of all others the address of their
    /// connection is taken
    #[arg(
        long = "trusted-proxies", env = "MUSTER_TRUSTED_PROXIES", value_delimiter = ',',
        value_name = "NETWORK", value_parser = network
    )]
    networks: Vec<IpNet>,
}

/// `10.0.0.0/8`, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| one())
        .map_err(|_| format!("'{text}' is neither an address nor a network, such as 10.0.0.0/8"))
}

/// An address, of which some proxies say the port, too.
fn address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    hop.parse().or_else(|_| with_port()).ok()
}

impl TrustedProxies {
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The client behind a connection from `peer`: the last one, from the right, who is no proxy that
    /// is trusted.
    fn client<'a>(&self, peer: IpAddr, said: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in said.rev() {
            if !self.trusts(client) {
                break;
            }
            let Some(before) = address(hop.trim()) else { break };
            client = before.to_canonical();
        }
        client
    }
}

/// The middleware: from here on, the client's address is the connection's.
pub(super) async fn look_through(
    State(proxies): State<Arc<TrustedProxies>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let lines = request.headers().get_all(FORWARDED_FOR);
    // What cannot be read is not looked past.
    let said: Vec<&str> = lines.iter().map(|line| line.to_str().unwrap_or("?")).collect();
    let client = proxies.client(peer.ip(), said.iter().flat_map(|line| line.split(',')));
    if client != peer.ip() {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_are_trusted_are_believed() {
        let networks = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(|text| network(text).unwrap());
        let proxies = TrustedProxies { networks: networks.to_vec() };
        for (peer, said, client) in [
            ("198.51.100.1", "", "198.51.100.1"),
            ("198.51.100.1", "203.0.113.9", "198.51.100.1"),
            ("10.1.2.3", "", "10.1.2.3"),
            ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
            // What a client has made up stands further left.
            ("10.1.2.3", "127.0.0.1, 203.0.113.9", "203.0.113.9"),
            ("10.1.2.3", "203.0.113.9, 192.0.2.7, 10.9.9.9", "203.0.113.9"),
            ("::ffff:10.1.2.3", "2001:db8::1", "2001:db8::1"),
            ("fd00::1", "203.0.113.9,nonsense", "fd00::1"),
            ("10.1.2.3", "10.1.2.4", "10.1.2.4"),
            ("10.1.2.3", "198.51.100.1,?", "10.1.2.3"),
            ("10.1.2.3", "198.51.100.1:4711", "198.51.100.1"),
            ("10.1.2.3", "[2001:db8::1]:443", "2001:db8::1"),
        ] {
            let hops = said.split(',').filter(|hop| !hop.is_empty());
            let found = proxies.client(peer.parse().unwrap(), hops);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} says '{said}'");
        }
        assert!(network("10.0.0.0/33").is_err() && network("door").is_err());
    }
}
