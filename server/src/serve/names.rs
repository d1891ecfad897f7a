//! The names and addresses of a server: for its certificate, and for messages.
//!
//! Uses only local information: an unavailable name server does not delay the start.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Returns the names of a server with this address. One that listens on all addresses has the name
/// of each of them.
pub(crate) fn certificate_names(listen: SocketAddr, more: Vec<String>) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if listen.ip().is_unspecified() {
        names.extend(interface_addresses().iter().map(IpAddr::to_string));
    } else {
        names.push(listen.ip().to_string());
    }
    if let Ok(host) = nix::unistd::gethostname() {
        let host = host.to_string_lossy().into_owned();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        names.extend(full_name(&host, &read("/etc/hosts"), &read("/etc/resolv.conf")));
        names.push(host);
    }
    names.extend(more);
    // A certificate can contain only ASCII names.
    names.retain(|name| !name.is_empty() && name.is_ascii());
    names.sort();
    names.dedup();
    names
}

/// Returns the addresses of this machine's interfaces that another machine can connect to.
fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .filter(|address| !address.is_loopback() && !is_link_local(*address))
        .collect()
}

/// Whether an address is link-local; a URL cannot contain such an address.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Returns the host name with its domain: from `/etc/hosts`, otherwise with the search domain of
/// `/etc/resolv.conf`.
fn full_name(host: &str, hosts: &str, resolv: &str) -> Option<String> {
    if host.is_empty() || host.contains('.') {
        return None;
    }
    let dotted = format!("{host}.");
    let words = |line: &str| -> Vec<String> {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let in_hosts = hosts
        .lines()
        .flat_map(|line| words(line).into_iter().skip(1))
        .find(|name| name.len() > dotted.len() && name.starts_with(&dotted));
    in_hosts.or_else(|| {
        resolv.lines().map(words).find_map(|words| match words.as_slice() {
            [key, domain, ..] if key == "search" || key == "domain" => {
                let domain = domain.trim_matches('.');
                (!domain.is_empty()).then(|| format!("{host}.{domain}"))
            }
            _ => None,
        })
    })
}

/// Returns the address by which other machines reach a server on this address; none for loopback.
pub(crate) fn address_for_others(listen: IpAddr) -> Option<IpAddr> {
    if !listen.is_unspecified() {
        return (!listen.is_loopback()).then_some(listen);
    }
    // The address of the interface with the default route. Connecting a UDP socket sends nothing;
    // the addresses are reserved for documentation (RFC 5737, RFC 3849).
    let towards: IpAddr = if listen.is_ipv4() {
        [192, 0, 2, 1].into()
    } else {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()
    };
    let leads_out = || {
        let socket = UdpSocket::bind((listen, 0)).ok()?;
        socket.connect((towards, 9)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback() && !address.is_unspecified()).then_some(address)
    };
    leads_out().or_else(|| {
        interface_addresses().into_iter().find(|address| address.is_ipv4() || listen.is_ipv6())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_name_is_determined_without_a_dns_query() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 one.plant.example one # here\n";
        let resolv = "nameserver 10.0.0.1\nsearch lab.example other.example\n";
        for (host, hosts, resolv, expected) in [
            ("one", hosts, resolv, Some("one.plant.example")),
            ("two", hosts, resolv, Some("two.lab.example")),
            ("on", hosts, "", None),
            ("one.plant.example", hosts, resolv, None),
            ("two", "", "# search x\nsearch .\n", None),
        ] {
            assert_eq!(full_name(host, hosts, resolv).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_has_all_of_them_in_its_certificate() {
        let names = |listen: &str| certificate_names(listen.parse().unwrap(), vec!["x.y".into()]);
        let all = names("0.0.0.0:1");
        for address in interface_addresses() {
            assert!(all.contains(&address.to_string()), "{address} is not among {all:?}");
        }
        assert!(all.contains(&"x.y".to_owned()) && !all.contains(&"0.0.0.0".to_owned()));
        assert!(names("127.0.0.2:1").contains(&"127.0.0.2".to_owned()));
    }

    #[test]
    fn loopback_is_no_address_for_other_machines() {
        assert_eq!(address_for_others("127.0.0.1".parse().unwrap()), None);
        assert_eq!(address_for_others("::1".parse().unwrap()), None);
        let own: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(address_for_others(own), Some(own));
    }
}
