//! The ports that a policy allows users to reach through the device: `HOST:PORT`. Pure.

use std::net::IpAddr;

use serde::Deserialize;

use super::pattern::matches;

/// Hosts and ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RuleText")]
pub(super) struct PortRule {
    host: String,
    /// Any if absent.
    port: Option<u16>,
}

/// The form in the file; a bare number is a port of the device itself.
#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a port nor text such as \"localhost:22\"")]
enum RuleText {
    Port(u16),
    Endpoint(String),
}

/// The text of a rule that is not a host and port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not HOST:PORT, such as localhost:22, *:80 or [::1]:*")]
struct InvalidPortRule(String);

impl TryFrom<RuleText> for PortRule {
    type Error = InvalidPortRule;

    fn try_from(written: RuleText) -> Result<Self, InvalidPortRule> {
        let text = match written {
            RuleText::Port(port) => format!("localhost:{port}"),
            RuleText::Endpoint(text) => text,
        };
        let wrong = || InvalidPortRule(text.clone());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if host.is_empty() || (bare.is_none() && host.contains([':', ' '])) {
            return Err(wrong());
        }
        let port = match port {
            "*" => None,
            port => Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
        };
        Ok(Self { host: normalize(bare.unwrap_or(host)), port })
    }
}

/// Normalizes a host name for comparison.
fn normalize(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether the host is one of the usual names of the device itself.
fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl PortRule {
    /// Whether the rule matches this host and port.
    pub(super) fn matches(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        let host = normalize(host);
        if is_local_name(&self.host) {
            return is_local_name(&host);
        }
        // A pattern of addresses matches only addresses: `10.0.0.*` does not match
        // `10.0.0.9.example.com`.
        let is_numeric = self.host.contains(|c: char| c.is_ascii_digit())
            && self.host.chars().all(|c| c.is_ascii_digit() || ".*".contains(c));
        matches(&self.host, &host) && (!is_numeric || host.parse::<IpAddr>().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_the_requested_host_and_port() {
        let port_rule =
            |text: &str| PortRule::try_from(RuleText::Endpoint(text.to_owned())).unwrap();
        for (rule, host, port, expected) in [
            ("localhost:22", "localhost", 22, true),
            ("localhost:22", "127.0.0.1", 22, true),
            ("localhost:22", "::1", 22, true),
            ("127.0.0.1:22", "LOCALHOST.", 22, true),
            ("localhost:22", "localhost", 23, false),
            ("localhost:22", "localhost.example.com", 22, false),
            ("*:80", "camera.local", 80, true),
            ("*:80", "camera.local", 81, false),
            ("*.local:*", "Camera.LOCAL", 8080, true),
            ("*.local:*", "camera.local.example.com", 8080, false),
            ("10.0.0.*:80", "10.0.0.9", 80, true),
            ("10.0.0.*:80", "10.0.0.9.example.com", 80, false),
            ("[fe80::1]:80", "fe80::1", 80, true),
            ("*:*", "anything", 1, true),
        ] {
            assert_eq!(port_rule(rule).matches(host, port), expected, "{rule} {host}:{port}");
        }
        let own = PortRule::try_from(RuleText::Port(80)).unwrap();
        assert!(own.matches("localhost", 80) && !own.matches("camera", 80));
        for bad in
            ["", "localhost", ":22", "localhost:", "localhost:0", "a:70000", "::1:22", "a b:1"]
        {
            assert!(PortRule::try_from(RuleText::Endpoint(bad.to_owned())).is_err(), "{bad:?}");
        }
        let invalid = PortRule::try_from(RuleText::Port(0)).unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "'localhost:0' is not HOST:PORT, such as localhost:22, *:80 or [::1]:*"
        );
    }
}
