//! One connection of a simulated device to the broker, with little memory, because there are ten
//! thousand of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Auth, AuthError, Client, ConnectOptions, Event};
use muster_schemas::subjects::DeviceSubjects;
use nkeys::KeyPair;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters of a connection.
pub(crate) struct Access<'a> {
    pub(crate) servers: &'a [String],
    pub(crate) jwt: &'a str,
    pub(crate) key: &'a Arc<KeyPair>,
    pub(crate) subjects: &'a DeviceSubjects,
    pub(crate) tls: &'a rustls::ClientConfig,
}

/// Connects once; the second value is canceled when the connection ends.
pub(crate) async fn connect(
    access: Access<'_>,
) -> Result<(Client, CancellationToken), async_nats::ConnectError> {
    let disconnected = CancellationToken::new();
    let seen = disconnected.clone();
    let (key, jwt) = (Arc::clone(access.key), access.jwt.to_owned());
    let is_used = Arc::new(AtomicBool::new(false));
    let client = ConnectOptions::with_auth_callback(move |nonce| {
        let (key, jwt, is_used) = (Arc::clone(&key), jwt.clone(), Arc::clone(&is_used));
        async move {
            // async-nats would reconnect automatically, with its own backoff.
            if is_used.swap(true, Ordering::Relaxed) {
                return Err(AuthError::new("a client authenticates only once"));
            }
            let mut auth = Auth::new();
            auth.signature = Some(key.sign(&nonce).map_err(AuthError::new)?);
            auth.jwt = Some(jwt);
            Ok(auth)
        }
    })
    .name(concat!("muster-simulate/", env!("CARGO_PKG_VERSION")))
    .require_tls(true)
    .tls_client_config(access.tls.clone())
    .custom_inbox_prefix(access.subjects.inbox_prefix())
    .connection_timeout(CONNECT_TIMEOUT)
    .request_timeout(Some(CONNECT_TIMEOUT))
    .subscription_capacity(32)
    .client_capacity(32)
    .read_buffer_capacity(1024)
    .ignore_discovered_servers()
    .max_reconnects(1)
    .event_callback(move |event| {
        let seen = seen.clone();
        async move {
            if matches!(event, Event::Disconnected | Event::Closed) {
                seen.cancel();
            }
        }
    })
    .connect(access.servers)
    .await?;
    Ok((client, disconnected))
}
