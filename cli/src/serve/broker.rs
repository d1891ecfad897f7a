//! Connections to the broker, one a role, with the role's own credentials.

use anyhow::{Context, Result};
use async_nats::{Client, ConnectOptions, Event};
use muster_command::keys::{KeyStore, RoleCredentials};
use tokio::sync::watch;

use super::ServeOptions;

/// A role's connection to the account that the devices are in.
pub(super) async fn connect(
    options: &ServeOptions,
    keys: &KeyStore,
    role: &'static str,
) -> Result<Client> {
    let credentials = keys.role_credentials(role)?;
    open(options, keys, credentials, role, watch::Sender::new(0)).await
}

/// A connection to the system account, and a counter of how often it was made.
pub(super) async fn connect_system(
    options: &ServeOptions,
    keys: &KeyStore,
) -> Result<(Client, watch::Receiver<u64>)> {
    let (connected, receiver) = watch::channel(0);
    let client = open(options, keys, keys.system_credentials()?, "system", connected).await?;
    Ok((client, receiver))
}

async fn open(
    options: &ServeOptions,
    keys: &KeyStore,
    credentials: RoleCredentials,
    name: &'static str,
    connected: watch::Sender<u64>,
) -> Result<Client> {
    let pair = std::sync::Arc::new(
        nkeys::KeyPair::from_seed(&credentials.seed).context("the seed of a role is not usable")?,
    );
    let connect = ConnectOptions::with_jwt(credentials.jwt, move |nonce| {
        let pair = pair.clone();
        async move { pair.sign(&nonce).map_err(async_nats::AuthError::new) }
    })
    .name(format!("muster {name}"))
    .add_root_certificates(keys.dir().join("ca.pem"))
    .require_tls(options.nats_url.starts_with("tls"))
    .ping_interval(std::time::Duration::from_secs(10))
    .connection_timeout(std::time::Duration::from_secs(5))
    .max_reconnects(None)
    .reconnect_delay_callback(|attempts| {
        std::time::Duration::from_millis(u64::try_from(attempts).unwrap_or(20).min(20) * 50)
    })
    .event_callback(move |event| {
        let connected = connected.clone();
        async move {
            match event {
                Event::Connected => {
                    connected.send_modify(|count| *count += 1);
                    tracing::debug!(role = name, "connected to the broker");
                }
                Event::Disconnected => tracing::warn!(role = name, "the broker is away"),
                Event::ServerError(error) => {
                    tracing::warn!(role = name, %error, "the broker refuses something");
                }
                other => tracing::debug!(role = name, event = %other, "the broker says"),
            }
        }
    });
    connect
        .connect(&options.nats_url)
        .await
        .with_context(|| format!("cannot connect to the broker at {}", options.nats_url))
}
