//! The configuration file. nats-server's format accepts JSON, so nothing needs escaping.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::options::{Identity, NatsOptions, Tls};

/// Major and minor version of a nats-server.
pub(super) type Version = (u32, u32);

/// Maximum number of pings without a response. A silent client is detected at the ping after these,
/// so the silence until then is `ping_interval` × (`ping_max` + 1).
const PING_MAX: u32 = 2;

/// Oldest accepted version. Before 2.12.8 a device can publish on any subject by the header
/// `Nats-Trace-Dest`.
pub const MIN_VERSION: (u32, u32) = (2, 14);

/// The ports that were chosen for this start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) websocket: Option<u16>,
}

/// Returns the configuration file for a nats-server that is not started by this crate, with all of
/// the options.
#[must_use]
pub fn configuration(options: &NatsOptions, port: u16) -> String {
    let websocket = options.websocket.as_ref().and_then(|websocket| websocket.port);
    let config = config(options, &options.dir, Ports { client: port, websocket });
    format!("{config:#}\n")
}

/// Returns the whole configuration.
pub(super) fn config(options: &NatsOptions, dir: &Path, ports: Ports) -> Value {
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.into(), value);
    set("server_name", json!(options.server_name));
    set("listen", json!(format_address(options, ports.client)));
    set("max_payload", json!(options.max_payload));
    set(
        "ping_interval",
        json!(format!("{}ms", (options.silence_timeout / (PING_MAX + 1)).as_millis())),
    );
    set("ping_max", json!(PING_MAX));
    set("write_deadline", json!("10s"));
    set("logtime_utc", json!(true));
    set("jetstream", jetstream(options, dir));
    if let Some(tls) = &options.tls {
        set("tls", tls_block(tls));
    }
    if let Some(port) = ports.websocket {
        set("websocket", websocket(options, port));
    }
    if let Some(identity) = &options.identity {
        operator_mode(&mut config, identity, dir);
    }
    for (key, value) in &options.extra {
        config.insert(key.clone(), value.clone());
    }
    Value::Object(config)
}

fn format_address(options: &NatsOptions, port: u16) -> String {
    std::net::SocketAddr::new(options.listen, port).to_string()
}

fn jetstream(options: &NatsOptions, dir: &Path) -> Value {
    let limits = &options.jetstream;
    json!({
        "store_dir": dir.join("jetstream"),
        "max_memory_store": limits.max_memory,
        "max_file_store": limits.max_file,
        "sync_interval": limits.sync_interval,
        // With the default, messages of a burst (metrics after a reconnect) are dropped silently.
        "max_buffered_msgs": 1_000_000,
        "max_buffered_size": 1_u64 << 30,
    })
}

fn tls_block(tls: &Tls) -> Value {
    let mut block = json!({ "cert_file": tls.certificate, "key_file": tls.key, "timeout": 10 });
    if let Some(ca) = &tls.client_ca {
        block["ca_file"] = json!(ca);
        block["verify"] = json!(true);
    }
    block
}

fn websocket(options: &NatsOptions, port: u16) -> Value {
    let mut block = json!({ "listen": format_address(options, port), "handshake_timeout": "10s" });
    match &options.tls {
        Some(tls) => block["tls"] = tls_block(tls),
        None => block["no_tls"] = json!(true),
    }
    block
}

fn operator_mode(config: &mut Map<String, Value>, identity: &Identity, dir: &Path) {
    let preload: Map<String, Value> = identity
        .preload
        .iter()
        .map(|preload| (preload.account.clone(), json!(preload.jwt)))
        .collect();
    config.insert("operator".into(), json!(identity.operator));
    config.insert("system_account".into(), json!(identity.system_account));
    config.insert(
        "resolver".into(),
        json!({ "type": "full", "dir": dir.join("accounts"), "allow_delete": true }),
    );
    config.insert("resolver_preload".into(), Value::Object(preload));
}

/// Parses the version: `nats-server: v2.15.1` → (2, 15).
pub(super) fn parse_version(printed: &str) -> Option<Version> {
    let mut numbers = printed.split_once(": v")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::{Preload, Websocket};

    const PORTS: Ports = Ports { client: 4222, websocket: Some(4280) };

    #[test]
    fn a_plain_server_has_no_identity_and_no_tls() {
        let config =
            config(&NatsOptions::new("/d"), Path::new("/d"), Ports { websocket: None, ..PORTS });
        assert_eq!(config["listen"], "127.0.0.1:4222");
        assert_eq!(config["ping_interval"], "20000ms");
        assert_eq!(config["ping_max"], 2);
        assert_eq!(config["jetstream"]["store_dir"], "/d/jetstream");
        assert_eq!(config["jetstream"]["max_buffered_msgs"], 1_000_000);
        for absent in ["tls", "websocket", "operator", "http", "http_port"] {
            assert!(config.get(absent).is_none(), "{absent} is there");
        }
    }

    #[test]
    fn each_option_is_where_nats_server_expects_it() {
        let mut options = NatsOptions::new("/d");
        options.websocket = Some(Websocket::default());
        options.tls = Some(Tls { certificate: "/c".into(), key: "/k".into(), client_ca: None });
        let preload = vec![Preload { account: "AABC".into(), jwt: "eyJa".into() }];
        options.identity =
            Some(Identity { operator: "eyJo".into(), system_account: "AABC".into(), preload });
        options.extra.insert("max_payload".into(), json!(5));
        let config = config(&options, Path::new("/d"), PORTS);
        assert_eq!(config["operator"], "eyJo");
        assert_eq!(config["resolver_preload"]["AABC"], "eyJa");
        assert_eq!(config["resolver"]["dir"], "/d/accounts");
        assert_eq!(config["websocket"]["tls"]["cert_file"], "/c");
        assert!(config["tls"].get("verify").is_none());
        assert_eq!(config["max_payload"], 5);
    }

    #[test]
    fn versions_are_parsed() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9\n"), Some((2, 9)));
        assert_eq!(parse_version("something else"), None);
    }
}
