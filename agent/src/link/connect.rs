//! One connection to one broker, authenticated by the device's JWT and key, over TLS to the pinned
//! CA.
//!
//! A client is used for one connection: async-nats would reconnect automatically, with credentials
//! that may have expired and with its own backoff. So its second attempt is refused, and
//! `reconnect.rs` creates another client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Auth, AuthError, Client, ConnectErrorKind, ConnectOptions, Event};
use muster_schemas::errors::root_cause;
use muster_schemas::subjects::DeviceSubjects;
use tokio::sync::mpsc;
use url::Url;

use super::tunnel::{display, host_and_port, proxy_for, through_listener, through_proxy};
use crate::identity::{Credentials, Identity};
use crate::trust::{self, TrustError, Verifier};

/// Time without a byte from the broker, after which the agent sends a ping. It is longer than the
/// time after which it sends a keep-alive: pings postpone the broker's own pings, and only the
/// broker sees them, so they do not show that the device is online.
const PING_INTERVAL: Duration = Duration::from_secs(50);
/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of unread messages per subscription: enough for a channel's full window in small
/// messages. The capacity is not allocated in advance.
const MAX_UNREAD_MESSAGES: usize = 4096;
/// Maximum number of unwritten messages.
const MAX_UNWRITTEN_MESSAGES: usize = 64;

/// The reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A broker address is invalid.
    #[error("the server sent an invalid broker address ('{0}'); fix the server's configuration")]
    Address(String),
    /// The server returned no broker address.
    #[error("the server sent no broker address; fix the server's configuration")]
    NoAddress,
    /// The TLS configuration failed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Both the broker's port and the server's HTTPS listener failed.
    #[error("{straight}; also unreachable via the server's HTTPS port: {}", .https)]
    NoRoute {
        /// Error of the last direct attempt.
        straight: String,
        /// Error of the attempt through the HTTPS listener.
        https: String,
    },
    /// The broker is unreachable, has an untrusted certificate, or refused the connection.
    #[error("failed to connect to the broker {address}: {problem}")]
    Broker {
        /// Address of the broker.
        address: String,
        /// Reason of the failure.
        problem: String,
        /// Whether the broker refused the credentials.
        is_denied: bool,
    },
}

/// Returns the broker's addresses; an unspecified host is replaced by the host that issued the
/// credentials.
///
/// # Errors
/// When the list is empty or an address is invalid.
pub fn broker_addresses(servers: &[String], url: &Url) -> Result<Vec<Url>, ConnectError> {
    let addresses: Vec<Url> = servers
        .iter()
        .map(|server| {
            let invalid = || ConnectError::Address(server.clone());
            let mut address: Url = server.parse().map_err(|_| invalid())?;
            if matches!(address.host_str(), Some("0.0.0.0" | "[::]")) {
                address.set_host(url.host_str()).map_err(|_| invalid())?;
            }
            if address.host_str().is_none_or(str::is_empty) {
                return Err(invalid());
            }
            Ok(address)
        })
        .collect::<Result<_, _>>()?;
    if addresses.is_empty() { Err(ConnectError::NoAddress) } else { Ok(addresses) }
}

/// The route to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The broker's own port, through a proxy if the environment names one.
    BrokerPort,
    /// The server's HTTPS listener.
    HttpsListener,
}

/// Connects. Events of the connection are sent to the returned channel. The text describes the
/// route, for log lines.
pub(super) async fn connect(
    identity: &Identity,
    credentials: &Credentials,
    address: &Url,
    route: Route,
) -> Result<(Client, String, mpsc::Receiver<Event>), ConnectError> {
    let broker_error = |name: &str, problem: String| ConnectError::Broker {
        address: name.to_owned(),
        problem,
        is_denied: false,
    };
    let proxy = (route == Route::BrokerPort).then(|| proxy_for(address)).flatten();
    let (name, port) = match (route, &proxy) {
        (Route::BrokerPort, None) => (address.to_string(), None),
        (Route::BrokerPort, Some(proxy)) => {
            let name = format!("{address} via the proxy {}", display(proxy));
            let made = through_proxy(proxy, address).await;
            let port = made.map_err(|problem| broker_error(&name, problem.to_string()))?;
            (name, Some(port))
        }
        (Route::HttpsListener, _) => {
            let name = format!("{address} via {}", identity.url);
            let made = through_listener(identity).await;
            let port = made.map_err(|problem| broker_error(&name, problem.to_string()))?;
            (name, Some(port))
        }
    };
    let (verifier, target) = match port {
        None => (Verifier::new(identity.pinned_ca()), address.to_string()),
        Some(port) => {
            let (host, _) = host_and_port(address);
            let verifier = Verifier::for_host(identity.pinned_ca(), &host)?;
            (verifier, format!("tls://127.0.0.1:{port}"))
        }
    };
    let (events_in, events) = mpsc::channel(16);
    let tls = trust::client_config(Arc::clone(&verifier))?;
    let made = options(identity, credentials, events_in.clone())
        .tls_client_config(tls)
        .connect(target)
        .await;
    let client = made.map_err(|error| {
        let problem = verifier.refusal().unwrap_or_else(|| root_cause(&error));
        let is_denied =
            error.kind() == ConnectErrorKind::AuthorizationViolation || is_denial(&problem);
        ConnectError::Broker { address: name.clone(), problem, is_denied }
    })?;
    Ok((client, name, events))
}

fn options(
    identity: &Identity,
    credentials: &Credentials,
    events: mpsc::Sender<Event>,
) -> ConnectOptions {
    let inboxes = DeviceSubjects::new(&identity.project, identity.device).inbox_prefix();
    sign_in(identity, credentials)
        .name(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
        .require_tls(true)
        .custom_inbox_prefix(inboxes)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(CONNECT_TIMEOUT))
        .subscription_capacity(MAX_UNREAD_MESSAGES)
        .client_capacity(MAX_UNWRITTEN_MESSAGES)
        .ignore_discovered_servers()
        .max_reconnects(1)
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                // The receiver was dropped if the connection was abandoned.
                events.send(event).await.ok();
            }
        })
}

fn sign_in(identity: &Identity, credentials: &Credentials) -> ConnectOptions {
    let (keys, jwt) = (identity.keys.clone(), credentials.response.jwt.clone());
    let is_used = Arc::new(AtomicBool::new(false));
    ConnectOptions::with_auth_callback(move |nonce| {
        let (keys, jwt, is_used) = (keys.clone(), jwt.clone(), Arc::clone(&is_used));
        async move {
            if is_used.swap(true, Ordering::Relaxed) {
                return Err(AuthError::new("a client authenticates only once"));
            }
            let mut auth = Auth::new();
            auth.signature = Some(keys.nats_sign(&nonce).map_err(AuthError::new)?);
            auth.jwt = Some(jwt);
            Ok(auth)
        }
    })
}

/// Whether the broker's error message is about the credentials. The broker sends only this text.
pub(super) fn is_denial(message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    text.contains("authorization violation")
        || text.contains("authentication expired")
        || text.contains("authentication revoked")
        || text.contains("account authentication")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_broker_address_is_replaced_by_the_server_s_host() {
        for (server, url, expected) in [
            (
                "tls://0.0.0.0:4222",
                "https://muster.example:8443",
                Some("tls://muster.example:4222"),
            ),
            ("tls://[::]:4222", "https://10.0.0.7", Some("tls://10.0.0.7:4222")),
            ("tls://0.0.0.0:1", "https://[fe80::1]:8443", Some("tls://[fe80::1]:1")),
            ("tls://broker:4222", "https://muster.example", Some("tls://broker:4222")),
            ("broker", "https://muster.example", None),
            ("tls://", "https://muster.example", None),
        ] {
            let url = url.parse().unwrap();
            let found = broker_addresses(&[server.to_owned()], &url).ok();
            let found = found.map(|found| found[0].to_string());
            assert_eq!(found.as_deref(), expected, "{server}");
        }
        assert!(broker_addresses(&[], &"https://x".parse().unwrap()).is_err());
    }

    #[test]
    fn denials_are_recognized_by_the_broker_s_error_message() {
        for (message, expected) in [
            ("Authorization Violation", true),
            ("User Authentication Expired", true),
            ("'User Authentication Revoked'", true),
            ("connection refused", false),
            ("Permissions Violation for Publish to \"x\"", false),
        ] {
            assert_eq!(is_denial(message), expected, "{message}");
        }
    }
}
