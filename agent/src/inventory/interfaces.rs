//! The network interfaces of this process's network namespace, from getifaddrs(3).
//!
//! `metrics::net` counts their traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

use muster_schemas::Hash;
use muster_schemas::events::Interface;
use sha2::{Digest, Sha256};

/// Returns all interfaces except loopback, sorted by name; empty if the kernel provides no list.
#[must_use]
pub fn interfaces() -> Vec<Interface> {
    let Ok(entries) = getifaddrs() else { return Vec::new() };
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in entries {
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let interface = found.entry(entry.interface_name.clone()).or_insert_with(|| Interface {
            name: entry.interface_name.clone(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            ..Interface::default()
        });
        let Some(address) = entry.address else { continue };
        if let Some(ip) = ip_of(&address) {
            let mask = entry.netmask.as_ref().and_then(ip_of);
            interface.addresses.push(with_prefix(ip, mask));
        } else if let Some(mac) = address.as_link_addr().and_then(nix::sys::socket::LinkAddr::addr)
            && mac != [0; 6]
        {
            interface.mac = Some(mac.map(|byte| format!("{byte:02x}")).join(":"));
        }
    }
    let mut interfaces: Vec<Interface> = found.into_values().collect();
    for interface in &mut interfaces {
        interface.addresses.sort_unstable();
        interface.addresses.dedup();
    }
    interfaces
}

/// Returns the hashes of the network cards' permanent addresses: those that a vendor has assigned,
/// which no other machine has. Locally administered addresses (containers, virtual switches,
/// privacy) are excluded.
#[must_use]
pub fn network_cards() -> Vec<Hash> {
    let macs: BTreeSet<String> = interfaces()
        .into_iter()
        .filter_map(|one| one.mac)
        .filter(|mac| is_vendor_address(mac))
        .collect();
    macs.iter()
        .map(|mac| {
            let digest = Sha256::new().chain_update("muster/mac/v1").chain_update(mac).finalize();
            Hash(digest.into())
        })
        .collect()
}

/// Bit 1 of the first byte marks locally administered addresses, bit 0 group addresses.
fn is_vendor_address(mac: &str) -> bool {
    let first = mac.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    first.is_some_and(|byte| byte & 0b11 == 0)
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    address.family()?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// Formats `192.168.1.5/24`; without a mask of the same kind, the address counts as a single one.
fn with_prefix(ip: IpAddr, mask: Option<IpAddr>) -> String {
    let prefix = match (ip, mask) {
        (IpAddr::V4(_), Some(IpAddr::V4(mask))) => mask.to_bits().leading_ones(),
        (IpAddr::V6(_), Some(IpAddr::V6(mask))) => mask.to_bits().leading_ones(),
        (IpAddr::V4(_), _) => Ipv4Addr::BITS,
        (IpAddr::V6(_), _) => Ipv6Addr::BITS,
    };
    format!("{ip}/{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_vendor_addresses_identify_a_machine() {
        for (mac, expected) in [
            ("b8:27:eb:01:02:03", true),
            ("00:00:5e:00:53:01", true),
            ("02:42:ac:11:00:02", false),
            ("a2:a0:8b:aa:26:e3", false),
            ("33:33:00:00:00:01", false),
            ("", false),
        ] {
            assert_eq!(is_vendor_address(mac), expected, "{mac}");
        }
    }

    #[test]
    fn addresses_include_their_prefix_length() {
        for (ip, mask, expected) in [
            ("10.0.0.1", Some("255.255.255.0"), "10.0.0.1/24"),
            ("10.0.0.1", Some("0.0.0.0"), "10.0.0.1/0"),
            ("10.0.0.1", None, "10.0.0.1/32"),
            ("fe80::1", Some("ffff:ffff:ffff:ffff::"), "fe80::1/64"),
            ("fe80::1", Some("255.0.0.0"), "fe80::1/128"),
        ] {
            let parse = |text: &str| text.parse().ok();
            let found = parse(ip).map(|ip| with_prefix(ip, mask.and_then(parse)));
            assert_eq!(found.as_deref(), Some(expected));
        }
    }
}
