//! The configuration: a TOML file for 1.x, flags for 2.x.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;

use super::options::Auth;

/// An address that a TCP socket can be bound to and that no TCP connection reaches.
const UNREACHABLE_ADDRESS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// Returns the configuration file of InfluxDB 1.x.
pub(super) fn v1(dir: &Path, port: u16, auth: Auth) -> String {
    let folder = |name: &str| quoted(&dir.join(name).to_string_lossy());
    format!(
        r#"# Written by muster at every start.
reporting-disabled = true
# The port for backups asks for no password and cannot be turned off. A TCP socket can be bound to
# this multicast address, and the kernel refuses connections to it.
bind-address = "{UNREACHABLE_ADDRESS}:0"

[meta]
dir = {meta}
logging-enabled = false

[data]
dir = {data}
wal-dir = {wal}
# On disk and not in memory: ten thousand devices make a hundred thousand series and more.
index-version = "tsi1"
# A write is answered when it is on disk.
wal-fsync-delay = "0s"
cache-max-memory-size = 1073741824
query-log-enabled = false
max-series-per-database = 0
max-values-per-tag = 0

[coordinator]
write-timeout = "10s"
query-timeout = "60s"
max-concurrent-queries = 0

[monitor]
store-enabled = false

[subscriber]
enabled = false

[http]
enabled = true
bind-address = "127.0.0.1:{port}"
auth-enabled = {auth}
pprof-enabled = false
log-enabled = false
max-body-size = 67108864
max-row-limit = 0

[logging]
format = "logfmt"
level = "info"
suppress-logo = true

[continuous_queries]
log-enabled = false
"#,
        meta = folder("meta"),
        data = folder("data"),
        wal = folder("wal"),
        auth = auth == Auth::Password,
    )
}

/// Returns the flags of InfluxDB 2.x.
pub(super) fn v2(dir: &Path, port: u16) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["--reporting-disabled".into(), "--log-level=info".into()];
    args.push(format!("--http-bind-address=127.0.0.1:{port}").into());
    for (flag, name) in [
        ("--bolt-path", "influxd.bolt"),
        ("--sqlite-path", "influxd.sqlite"),
        ("--engine-path", "engine"),
    ] {
        args.extend([flag.into(), dir.join(name).into_os_string()]);
    }
    args
}

/// Formats a TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_backup_port_is_unreachable() {
        use std::net::{TcpListener, TcpStream};
        use std::time::Duration;
        let listener = TcpListener::bind((UNREACHABLE_ADDRESS, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in [UNREACHABLE_ADDRESS, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let address = (address, port).into();
            assert!(TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_err());
        }
    }

    #[test]
    fn folders_are_quoted_and_only_the_api_is_reachable() {
        let config = v1(Path::new("/a \"b\"\\c"), 8086, Auth::Password);
        assert!(config.contains(r#"dir = "/a \"b\"\\c/data""#), "{config}");
        assert!(config.contains("auth-enabled = true"));
        let binds: Vec<&str> =
            config.lines().filter(|line| line.starts_with("bind-address")).collect();
        assert_eq!(
            binds,
            [r#"bind-address = "224.0.0.1:0""#, r#"bind-address = "127.0.0.1:8086""#]
        );
    }

    #[test]
    fn influxdb_2_gets_its_folders_by_flags() {
        let args = v2(Path::new("/d"), 8086);
        assert!(
            args.contains(&"/d/engine".into())
                && args.contains(&"--http-bind-address=127.0.0.1:8086".into())
        );
    }
}
