//! Checks of the connection to the servers: names, ports, proxy, trust, clock.

use std::time::Duration;

use hyper_util::client::proxy::matcher::Intercept;
use muster_schemas::Timestamp;
use muster_schemas::wire::{NonceRequest, NonceResponse};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::check::Check;
use crate::clock::Moment;
use crate::identity::{Http, HttpError};
use crate::link::{
    TunnelError, broker_addresses, open_listener_tunnel, open_proxy, proxy_for, shown_proxy,
};
use crate::status::Status;
use crate::trust::{PinnedCa, Verifier};

/// Maximum clock skew: a larger one makes local logs hard to compare with
/// muster's.
const MAX_SKEW: Duration = Duration::from_secs(60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a connection to the server's HTTPS listener cannot be tried or fails.
#[derive(Debug, thiserror::Error)]
enum ListenerError {
    #[error("the pinned CA is invalid: {0}")]
    InvalidCa(#[from] pem::Error),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
}

/// Checks the server: its name, its port or the proxy, its certificate, and its clock.
pub(super) async fn server(status: &Status) -> Vec<Check> {
    let Ok(url) = status.url.parse::<Url>() else {
        let remedy = "enroll again with --force";
        return vec![Check::bad("server", format!("'{}' is not a URL", status.url), remedy)];
    };
    let proxy = proxy_for(&url);
    let mut checks = vec![match &proxy {
        Some(proxy) => proxy_itself(proxy).await,
        None => reach("server", &url, 443).await,
    }];
    if checks.iter().all(Check::is_ok) {
        checks.extend(send_request(status, &url, proxy.as_ref()).await);
    }
    checks
}

/// Sends the server a request that needs no authentication.
async fn send_request(status: &Status, url: &Url, proxy: Option<&Intercept>) -> Vec<Check> {
    let enroll = "enroll again with --force";
    let (Ok(project), Ok(device)) = (status.project.parse(), status.device.parse()) else {
        return vec![Check::bad("identity", "the project or the device id is invalid", enroll)];
    };
    let ca = match pinned_ca(status) {
        Ok(ca) => ca,
        Err(error) => return vec![Check::bad("TLS", error.to_string(), enroll)],
    };
    let verifier = Verifier::new(ca);
    let http = match Http::new(url, std::sync::Arc::clone(&verifier)) {
        Ok(http) => http,
        Err(error) => return vec![Check::bad("TLS", error.to_string(), enroll)],
    };
    let sent = Moment::now();
    let request = NonceRequest { project, device };
    let result: Result<NonceResponse, HttpError> =
        http.post("/api/v1/device/nonce", &request).await;
    let trusted = || Check::good("TLS", "the server's certificate is signed by the pinned CA");
    match result {
        Ok(nonce) => vec![trusted(), clock(&sent, nonce.server_time)],
        Err(HttpError::Refused { status, problem, .. }) => {
            let found = format!("rejects the request ({status}): {problem}");
            vec![trusted(), Check::bad("server", found, "see the server's log")]
        }
        Err(error) if verifier.refusal().is_some() => {
            let remedy = "check whether a proxy between this device and the server intercepts \
                          TLS; if the server has a new CA, enroll again with a new token";
            vec![Check::bad("TLS", error.to_string(), remedy)]
        }
        Err(error) => vec![match proxy {
            Some(proxy) => {
                let found = format!("{error} (via the proxy {})", shown_proxy(proxy));
                Check::bad(
                    "server",
                    found,
                    "check that the proxy allows this device to connect to the server's port, or \
                     set NO_PROXY",
                )
            }
            None => Check::bad(
                "server",
                error.to_string(),
                "check that this is the URL of a muster server, and that no other server \
                 intercepts it",
            ),
        }],
    }
}

fn pinned_ca(status: &Status) -> Result<PinnedCa, ListenerError> {
    Ok(PinnedCa::Certificate(CertificateDer::from_pem_slice(status.ca.as_bytes())?))
}

/// Checks whether the broker is reachable via the server's HTTPS listener.
async fn try_listener(status: &Status, url: &Url) -> Result<(), ListenerError> {
    open_listener_tunnel(url, pinned_ca(status)?).await?;
    Ok(())
}

/// Checks the proxy that the environment configures.
async fn proxy_itself(proxy: &Intercept) -> Check {
    let found = shown_proxy(proxy);
    let Ok(url) = format!("http://{found}").parse::<Url>() else {
        let remedy = "set HTTPS_PROXY to http://HOST:PORT";
        return Check::bad("proxy", format!("'{found}' is not a proxy address"), remedy);
    };
    let mut check = reach("proxy", &url, 80).await;
    if !check.is_ok() {
        check.remedy = Some("check HTTPS_PROXY, and that the proxy is running".to_owned());
    }
    check
}

pub(super) fn clock(at: &Moment, server: Timestamp) -> Check {
    let skew = at.wall.micros_since(server);
    let found = format!("differs from the server's clock by {:.1} s", skew as f64 / 1e6);
    if Duration::from_micros(skew.unsigned_abs()) > MAX_SKEW {
        let remedy = "set the clock (timedatectl set-ntp true); muster corrects for the \
                      difference, other programs do not";
        Check::bad("clock", found, remedy)
    } else {
        Check::good("clock", found)
    }
}

/// Checks the brokers' ports, and the server's HTTPS port if none of them is open.
pub(super) async fn brokers(status: &Status) -> Vec<Check> {
    let Ok(url) = status.url.parse::<Url>() else { return Vec::new() };
    let addresses = match broker_addresses(&status.brokers, &url) {
        Ok(addresses) => addresses,
        Err(error) => {
            let remedy = "a running agent requests the addresses again";
            return vec![Check::bad("broker", error.to_string(), remedy)];
        }
    };
    let mut checks = Vec::new();
    for address in addresses {
        checks.push(match proxy_for(&address) {
            Some(proxy) => broker_by_proxy(&proxy, &address).await,
            None => reach("broker", &address, 4222).await,
        });
    }
    if checks.iter().any(Check::is_ok) {
        return checks;
    }
    match (try_listener(status, &url).await, checks.as_slice()) {
        (Ok(()), [first, ..]) => {
            let found = format!("reachable via the server's HTTPS port ({})", first.found);
            vec![Check::good("broker", found)]
        }
        (Ok(()), []) => checks,
        (Err(error), _) => {
            let found = format!("also unreachable via the server's HTTPS port: {error}");
            let remedy = "allow connections from this device to the broker's port or to the \
                          server's HTTPS port";
            checks.push(Check::bad("broker", found, remedy));
            checks
        }
    }
}

async fn broker_by_proxy(proxy: &Intercept, address: &Url) -> Check {
    match open_proxy(proxy, address).await {
        Ok(_) => Check::good(
            "broker",
            format!("{address} is reachable via the proxy {}", shown_proxy(proxy)),
        ),
        Err(problem) => {
            let remedy = "allow CONNECT to the broker's port in the proxy, or set NO_PROXY";
            Check::bad("broker", format!("{address} is unreachable: {problem}"), remedy)
        }
    }
}

/// Checks the name and the port of an address.
async fn reach(name: &'static str, url: &Url, default: u16) -> Check {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(default);
    let looked_up = timeout(CHECK_TIMEOUT, tokio::net::lookup_host((host.as_str(), port))).await;
    let addresses: Vec<_> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let remedy = "check the name and /etc/resolv.conf";
            return Check::bad(name, format!("failed to resolve {host}: {error}"), remedy);
        }
        Err(_) => {
            let found =
                format!("failed to resolve {host}: no response from the name server within 5 s");
            return Check::bad(name, found, "check the network and /etc/resolv.conf");
        }
    };
    let mut problem = "the name has no address".to_owned();
    for address in addresses {
        match timeout(CHECK_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                return Check::good(name, format!("{host}:{port} is reachable at {address}"));
            }
            Ok(Err(error)) => problem = format!("{address}: {error}"),
            Err(_) => problem = format!("{address}: no response within 5 s"),
        }
    }
    let remedy =
        format!("check that the server is running, and that no firewall blocks port {port}");
    Check::bad(name, format!("{host}:{port} is unreachable: {problem}"), remedy)
}
