//! The single checks.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use muster_schemas::Timestamp;
use muster_schemas::wire::{NonceRequest, NonceResponse};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::Check;
use crate::clock::Moment;
use crate::identity::{Http, HttpError};
use crate::link::broker_addresses;
use crate::run::Status;
use crate::store::free_bytes;
use crate::trust::{PinnedCa, Verifier};

/// Less free space than this is too little, in bytes: the outbox and the backlog, filled.
const ENOUGH: u64 = 160 << 20;
/// A clock that is further off confuses whoever reads local logs beside muster's; microseconds.
const SKEW: i64 = 60 * 1_000_000;
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn folder(data: &Path) -> Check {
    let name = "data folder";
    let shown = data.display();
    let metadata = match std::fs::metadata(data) {
        Ok(metadata) => metadata,
        Err(error) => {
            let remedy = "run as the agent's own user, or name another folder with --data";
            return Check::bad(name, format!("{shown} cannot be read: {error}"), remedy);
        }
    };
    let mode = metadata.permissions().mode() & 0o777;
    // Going through it is for the sockets that applications write metrics to.
    if mode & 0o066 != 0 {
        let found = format!("{shown} can be read by others (mode {mode:o})");
        return Check::bad(name, found, format!("chmod 700 {shown}"));
    }
    let user = nix::unistd::geteuid();
    if metadata.uid() != user.as_raw() && !user.is_root() {
        let found = format!("{shown} belongs to user {}", metadata.uid());
        return Check::bad(name, found, "run as that user");
    }
    Check::good(name, format!("{shown}, mode {mode:o}"))
}

pub(super) fn disk(data: &Path) -> Check {
    let name = "disk";
    match free_bytes(data) {
        Some(free) => {
            let found = format!("{} MiB free", free >> 20);
            if free < ENOUGH {
                let remedy = format!(
                    "make room ({} MiB): metrics, then events, are dropped when the disk is full",
                    ENOUGH >> 20
                );
                Check::bad(name, found, remedy)
            } else {
                Check::good(name, found)
            }
        }
        None => Check::bad(name, "cannot be asked for its free space", "check the mount"),
    }
}

pub(super) fn running(status: &Status) -> Check {
    let name = "agent";
    match (status.is_running, &status.broker) {
        (true, Some(broker)) => Check::good(name, format!("runs, connected to {broker}")),
        (true, None) => {
            let last = status.last_error.as_ref().map_or("nothing failed yet", |(_, e)| e);
            Check::bad(name, format!("runs, not connected: {last}"), "see the checks below")
        }
        (false, _) => Check::bad(name, "does not run", "start it: muster-agent run"),
    }
}

/// The server: its name, its port, its certificate, and whether it knows the device.
pub(super) async fn server(status: &Status) -> Vec<Check> {
    let Ok(url) = status.url.parse::<Url>() else {
        let remedy = "enroll again with --force";
        return vec![Check::bad("server", format!("'{}' is no URL", status.url), remedy)];
    };
    let mut checks = reach("server", &url, 443).await;
    if checks.iter().any(|check| !check.is_ok()) {
        return checks;
    }
    let ca = CertificateDer::from_pem_slice(status.ca.as_bytes());
    let asked = async {
        let ca = ca.map_err(|error| error.to_string())?;
        let http = Http::new(&url, Verifier::new(PinnedCa::Certificate(ca)))
            .map_err(|error| error.to_string())?;
        let request = NonceRequest {
            project: status.project.parse().map_err(|_| "the stored project is none")?,
            device: status.device.parse().map_err(|_| "the stored id is none")?,
        };
        let sent = Moment::now();
        let answer: Result<NonceResponse, HttpError> =
            http.post("/api/v1/device/nonce", &request).await;
        Ok::<_, String>((sent, answer))
    };
    match asked.await {
        Ok((sent, Ok(nonce))) => {
            checks.push(Check::good("TLS", "the server's certificate is by the pinned CA"));
            checks.push(clock(&sent, nonce.server_time));
        }
        Ok((_, Err(HttpError::Refused { status, problem, .. }))) => {
            checks.push(Check::good("TLS", "the server's certificate is by the pinned CA"));
            let remedy =
                "ask an operator whether the device was deleted; if so, enroll again with --force";
            checks.push(Check::bad("device", format!("refused ({status}): {problem}"), remedy));
        }
        Ok((_, Err(error))) => {
            let remedy = "is something between this device and the server that opens TLS, or has the server another CA now?";
            checks.push(Check::bad("TLS", error.to_string(), remedy));
        }
        Err(problem) => {
            checks.push(Check::bad("TLS", problem, "enroll again with --force"));
        }
    }
    checks
}

fn clock(at: &Moment, server: Timestamp) -> Check {
    let skew = at.wall.micros().saturating_sub(server.micros());
    let found = format!("{:.1} s off the server's", skew as f64 / 1e6);
    if skew.abs() > SKEW {
        let remedy = "set the clock (timedatectl set-ntp true); muster corrects for it, other programs do not";
        Check::bad("clock", found, remedy)
    } else {
        Check::good("clock", found)
    }
}

pub(super) async fn brokers(status: &Status) -> Vec<Check> {
    let url = match status.url.parse::<Url>() {
        Ok(url) => url,
        Err(_) => return Vec::new(),
    };
    match broker_addresses(&status.brokers, &url) {
        Ok(addresses) => {
            let mut checks = Vec::new();
            for address in addresses {
                checks.extend(reach("broker", &address, 4222).await);
            }
            checks
        }
        Err(error) => {
            vec![Check::bad("broker", error.to_string(), "the agent asks again when it runs")]
        }
    }
}

/// The name and the port of an address.
async fn reach(name: &'static str, url: &Url, default: u16) -> Vec<Check> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(default);
    let looked_up = timeout(LIMIT, tokio::net::lookup_host((host.as_str(), port))).await;
    let addresses: Vec<_> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let remedy = "check the name and /etc/resolv.conf";
            return vec![Check::bad(name, format!("{host} is not found: {error}"), remedy)];
        }
        Err(_) => {
            let found = format!("{host}: no answer from the name server in 5 s");
            return vec![Check::bad(name, found, "check the network and /etc/resolv.conf")];
        }
    };
    let mut problem = "it has no address".to_owned();
    for address in addresses {
        match timeout(LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                return vec![Check::good(name, format!("{host}:{port} is {address}, reached"))];
            }
            Ok(Err(error)) => problem = format!("{address}: {error}"),
            Err(_) => problem = format!("{address}: no answer in 5 s"),
        }
    }
    let remedy =
        format!("does a firewall let this device out to port {port}? does the server run?");
    vec![Check::bad(name, format!("{host}:{port} is not reached: {problem}"), remedy)]
}

pub(super) fn credentials(status: &Status) -> Check {
    let name = "credentials";
    let now = Moment::now().wall.plus_micros(-status.clock_skew_us.unwrap_or(0));
    match status.credentials_until {
        Some(until) if until > now => Check::good(name, format!("good until {until}")),
        Some(until) => Check::bad(
            name,
            format!("expired {until}"),
            "a running agent renews them by itself; look at `muster-agent status` for why not",
        ),
        None => Check::bad(name, "none yet", "a running agent gets them by itself"),
    }
}

pub(super) fn outbox(status: &Status) -> Check {
    let (name, outbox) = ("outbox", &status.outbox);
    let found = format!("{} events wait, {} were dropped", outbox.unconfirmed, outbox.dropped);
    if outbox.dropped > 0 {
        Check::bad(name, found, "bring the device online: the outbox is full")
    } else {
        Check::good(name, found)
    }
}
