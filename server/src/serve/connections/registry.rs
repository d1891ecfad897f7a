//! Registry of open connections: counts by client network, and the idle ones without a request in
//! flight.
//!
//! No I/O and no clock: the order in which connections became idle is their age.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::slot::Slot;

/// Maximum numbers of connections and tunnels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of connections to the listener and to the broker together.
    pub(super) total: usize,
    /// Maximum number of connections, and of tunnels, from one address; `None` without a limit.
    pub(super) per_address: Option<usize>,
    /// Maximum number of tunnels.
    pub(super) tunnels: usize,
}

/// The limit that refuses a connection or a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Total,
    Address,
    Tunnels,
    TunnelsOfAddress,
}

impl Refused {
    /// Returns the label in `/metrics`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
            Self::Tunnels => "tunnels",
            Self::TunnelsOfAddress => "tunnels_of_address",
        }
    }
}

#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    next: u64,
    open: HashMap<u64, Open>,
    /// Connections without a request in flight, by the order in which they became idle.
    idle: BTreeMap<u64, u64>,
    by_peer: HashMap<SocketAddr, u64>,
    networks: HashMap<IpAddr, Network>,
    tunnels: usize,
}

#[derive(Debug)]
struct Open {
    slot: Arc<Slot>,
    requests: usize,
    /// Key in `idle`.
    idle_key: Option<u64>,
}

#[derive(Debug, Default)]
struct Network {
    open: usize,
    idle: BTreeSet<u64>,
    tunnels: usize,
}

/// Returns the network that counts as one client: an IPv4 address, or an IPv6 /64, the smallest
/// assignment of a site.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            open: HashMap::new(),
            idle: BTreeMap::new(),
            by_peer: HashMap::new(),
            networks: HashMap::new(),
            tunnels: 0,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Admits a connection. Also returns the number of idle connections that were closed for it.
    pub(super) fn admit(
        &mut self,
        peer: SocketAddr,
        is_limited: bool,
    ) -> Result<(Arc<Slot>, u64), Refused> {
        let address = network_of(peer.ip());
        let mut closed = 0;
        if let Some(network) = self.networks.get(&address)
            && is_limited
            && self.limits.per_address.is_some_and(|limit| network.open >= limit)
        {
            let oldest = network.idle.first().copied().ok_or(Refused::Address)?;
            closed += self.close(oldest);
        }
        if self.open.len() + self.tunnels >= self.limits.total {
            let oldest = self.idle.keys().next().copied().ok_or(Refused::Total)?;
            closed += self.close(oldest);
        }
        let id = self.next;
        self.next += 1;
        let slot = Arc::new(Slot::new(id, peer));
        let open = Open { slot: Arc::clone(&slot), requests: 0, idle_key: Some(id) };
        self.open.insert(id, open);
        self.idle.insert(id, id);
        self.by_peer.insert(peer, id);
        let network = self.networks.entry(address).or_default();
        network.open += 1;
        network.idle.insert(id);
        Ok((slot, closed))
    }

    /// Closes an idle connection.
    fn close(&mut self, idle: u64) -> u64 {
        let open = self.idle.get(&idle).and_then(|id| self.open.get(id));
        let Some(slot) = open.map(|open| Arc::clone(&open.slot)) else { return 0 };
        slot.close();
        self.remove(&slot);
        1
    }

    /// Removes a connection; one that was closed in favor of another is already removed.
    pub(super) fn remove(&mut self, slot: &Slot) {
        let Some(open) = self.open.remove(&slot.id) else { return };
        if let Some(idle) = open.idle_key {
            self.idle.remove(&idle);
        }
        if self.by_peer.get(&slot.peer) == Some(&slot.id) {
            self.by_peer.remove(&slot.peer);
        }
        self.change_network(slot.peer.ip(), |network| {
            network.open = network.open.saturating_sub(1);
            if let Some(idle) = open.idle_key {
                network.idle.remove(&idle);
            }
        });
    }

    /// Records the start of a request. Returns the connection's id, for the request's end.
    pub(super) fn start_request(&mut self, peer: SocketAddr) -> Option<u64> {
        let id = *self.by_peer.get(&peer)?;
        let open = self.open.get_mut(&id)?;
        open.requests += 1;
        if let Some(idle) = open.idle_key.take() {
            self.idle.remove(&idle);
            if let Some(network) = self.networks.get_mut(&network_of(peer.ip())) {
                network.idle.remove(&idle);
            }
        }
        Some(id)
    }

    /// Records the end of a request. A connection without another request becomes idle.
    pub(super) fn end_request(&mut self, id: u64) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.requests = open.requests.saturating_sub(1);
        if open.requests > 0 || open.idle_key.is_some() {
            return;
        }
        let idle = self.next;
        self.next += 1;
        open.idle_key = Some(idle);
        self.idle.insert(idle, id);
        if let Some(network) = self.networks.get_mut(&network_of(open.slot.peer.ip())) {
            network.idle.insert(idle);
        }
    }

    pub(super) fn open_tunnel(&mut self, client: IpAddr, is_limited: bool) -> Result<(), Refused> {
        if self.tunnels >= self.limits.tunnels {
            return Err(Refused::Tunnels);
        }
        if self.open.len() + self.tunnels >= self.limits.total {
            return Err(Refused::Total);
        }
        let network = self.networks.entry(network_of(client)).or_default();
        if is_limited && self.limits.per_address.is_some_and(|limit| network.tunnels >= limit) {
            return Err(Refused::TunnelsOfAddress);
        }
        network.tunnels += 1;
        self.tunnels += 1;
        Ok(())
    }

    pub(super) fn close_tunnel(&mut self, client: IpAddr) {
        self.tunnels = self.tunnels.saturating_sub(1);
        self.change_network(client, |network| {
            network.tunnels = network.tunnels.saturating_sub(1);
        });
    }

    fn change_network(&mut self, address: IpAddr, change: impl FnOnce(&mut Network)) {
        let address = network_of(address);
        let Some(network) = self.networks.get_mut(&address) else { return };
        change(network);
        if network.open == 0 && network.tunnels == 0 {
            self.networks.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(total: usize, per_address: usize) -> Registry {
        Registry::new(Limits { total, per_address: Some(per_address), tunnels: 2 })
    }

    fn peer(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], port))
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        for (one, other, are_same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ] {
            let network = |text: &str| network_of(text.parse().unwrap());
            assert_eq!(network(one) == network(other), are_same, "{one} {other}");
        }
    }

    #[test]
    fn the_oldest_idle_connection_is_closed_for_a_new_one() {
        let mut registry = registry(3, 100);
        let (busy, _) = registry.admit(peer(1, 1), true).unwrap();
        let request = registry.start_request(busy.peer).unwrap();
        let (old, _) = registry.admit(peer(2, 1), true).unwrap();
        let (young, _) = registry.admit(peer(3, 1), true).unwrap();
        let (new, closed) = registry.admit(peer(4, 1), true).unwrap();
        assert_eq!((closed, registry.open()), (1, 3));
        assert!(old.is_closed() && !busy.is_closed() && !young.is_closed());
        // Its end is noticed later, and is not counted again.
        registry.remove(&old);
        assert_eq!(registry.open(), 3);
        for slot in [&young, &new] {
            registry.start_request(slot.peer);
        }
        assert_eq!(registry.admit(peer(5, 1), true).unwrap_err(), Refused::Total);
        // A connection whose requests have ended is idle again.
        registry.start_request(busy.peer);
        registry.end_request(request);
        assert_eq!(registry.admit(peer(5, 1), true).unwrap_err(), Refused::Total);
        registry.end_request(request);
        assert!(registry.admit(peer(5, 1), true).is_ok() && busy.is_closed());
        registry.end_request(request);
        assert_eq!(registry.open(), 3);
    }

    #[test]
    fn an_address_at_its_limit_does_not_affect_others() {
        let mut registry = registry(100, 2);
        let (other, _) = registry.admit(peer(1, 1), true).unwrap();
        let (first, _) = registry.admit(peer(2, 1), true).unwrap();
        for port in 2..10 {
            registry.admit(peer(2, port), true).unwrap();
        }
        assert!(first.is_closed() && !other.is_closed());
        assert_eq!(registry.open(), 3);
        for port in 8..10 {
            registry.start_request(peer(2, port));
        }
        assert_eq!(registry.admit(peer(2, 99), true).unwrap_err(), Refused::Address);
        // A trusted proxy carries the connections of many clients.
        assert!(registry.admit(peer(2, 99), false).is_ok());
    }

    #[test]
    fn tunnels_count_in_total_and_per_address() {
        let (one, other) = (peer(1, 1).ip(), peer(2, 1).ip());
        let mut narrow = registry(100, 1);
        narrow.open_tunnel(one, true).unwrap();
        assert_eq!(narrow.open_tunnel(one, true), Err(Refused::TunnelsOfAddress));
        narrow.open_tunnel(other, true).unwrap();
        assert_eq!(narrow.open_tunnel(one, false), Err(Refused::Tunnels));
        narrow.close_tunnel(one);
        narrow.open_tunnel(one, true).unwrap();

        let mut small = registry(2, 100);
        let (slot, _) = small.admit(peer(1, 1), true).unwrap();
        small.start_request(slot.peer);
        small.open_tunnel(one, true).unwrap();
        assert_eq!(small.open_tunnel(one, true), Err(Refused::Total));
        assert_eq!(small.admit(peer(2, 1), true).unwrap_err(), Refused::Total);
        small.close_tunnel(one);
        small.remove(&slot);
        assert!(small.networks.is_empty() && small.by_peer.is_empty());
    }
}
