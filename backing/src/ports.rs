//! Free TCP ports on the loopback interface, reserved so that parallel tests do not collide.
//!
//! Ports are below the kernel's ephemeral range. While its server restarts, a port inside that
//! range could become the local port of an outgoing connection, even of a client that repeatedly
//! connects to the server (a TCP self-connect).

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use parking_lot::Mutex;
use rand::Rng;
use thiserror::Error;

/// No free port was found.
#[derive(Debug, Error)]
#[error(
    "no free TCP port on 127.0.0.1 between {from} and {to}; stop the programs that use them, or \
     choose the ports"
)]
pub struct NoFreePort {
    /// The first port that was tried.
    pub from: u16,
    /// The last port that was tried.
    pub to: u16,
}

/// Ports that this process has reserved, each with the abstract Unix socket that reserves it.
///
/// Binding an abstract name is atomic and machine-wide (in its network namespace), and the kernel
/// releases it when the process ends: this is a reservation, unlike a mere check of the port.
static RESERVED: Mutex<Option<HashMap<u16, UnixListener>>> = Mutex::new(None);

const FIRST: u16 = 20_000;

/// Returns a port of 127.0.0.1 on which no process listens, and that this function returns to no
/// other caller in any process while this process runs.
///
/// # Errors
/// [`NoFreePort`] after a few hundred attempts.
pub fn free_port() -> Result<u16, NoFreePort> {
    let last = last_port();
    let mut reserved = RESERVED.lock();
    let reserved = reserved.get_or_insert_default();
    for _ in 0..500 {
        let port = rand::rng().random_range(FIRST..=last);
        if reserved.contains_key(&port) || !is_free(port) {
            continue;
        }
        if let Some(reservation) = reserve(port) {
            reserved.insert(port, reservation);
            return Ok(port);
        }
    }
    Err(NoFreePort { from: FIRST, to: last })
}

/// Returns the address at which this machine reaches a server that listens on `listen`: the
/// unspecified address is valid for listening, but not for connecting.
#[must_use]
pub fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Whether a server could bind `port` on 127.0.0.1 now.
pub fn is_free(port: u16) -> bool {
    !is_taken(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Whether a process listens on `address` now. The server itself reports other reasons why it
/// cannot bind the address.
pub(crate) fn is_taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

fn reserve(port: u16) -> Option<UnixListener> {
    let name = format!("muster-port-{port}");
    UnixListener::bind_addr(&UnixAddr::from_abstract_name(name).ok()?).ok()
}

/// Returns the last port below the ephemeral range, which starts at 32768 on most systems.
fn last_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_ephemeral =
        range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768_u16);
    if first_ephemeral > FIRST + 1000 { first_ephemeral - 1 } else { 32_767 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_free_and_below_the_ephemeral_range() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert!(ports.iter().all(|port| is_free(*port) && *port <= last_port()));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_reserved_port_is_returned_only_once() {
        let port = free_port().unwrap();
        assert!(reserve(port).is_none(), "another process would have been given {port}");
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
