//! Connections to the broker, one per role, with the role's own credentials.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use muster_command::keys::{RoleCredentials, RoleKeys};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::options::ServeOptions;
use super::startup;

/// Opens a role's connection to the servers' account.
pub(super) async fn connect(
    options: &ServeOptions,
    keys: &RoleKeys,
    role: &'static str,
    stop: &CancellationToken,
) -> Result<Client> {
    open(options, &keys.ca, &keys.broker, role, watch::Sender::new(0), stop).await
}

/// Opens a connection to the system account; also returns a counter of its connects and reconnects.
pub(super) async fn connect_system(
    options: &ServeOptions,
    keys: &RoleKeys,
    stop: &CancellationToken,
) -> Result<(Client, watch::Receiver<u64>)> {
    let (connected, receiver) = watch::channel(0);
    let credentials = keys.system.as_ref().context("the role has no system.creds")?;
    let client = open(options, &keys.ca, credentials, "system", connected, stop).await?;
    Ok((client, receiver))
}

/// Connects; retries while the broker starts, or is temporarily unreachable.
async fn open(
    options: &ServeOptions,
    ca: &Path,
    credentials: &RoleCredentials,
    name: &'static str,
    connected: watch::Sender<u64>,
    stop: &CancellationToken,
) -> Result<Client> {
    let settings = settings(options, ca, credentials, name, connected)?;
    let is_rejected =
        |error: &ConnectError| error.kind() == ConnectErrorKind::AuthorizationViolation;
    let connect = || settings.clone().connect(&options.nats_urls);
    let client = startup::retry_until_ready("the broker", stop, is_rejected, connect);
    let client = client.await.with_context(|| {
        format!("failed to connect to the broker at {}", options.nats_urls.join(", "))
    })?;
    let (major, minor) = muster_backing::nats::MIN_VERSION;
    anyhow::ensure!(
        client.is_server_compatible(major.into(), minor.into(), 0),
        "the broker is nats-server {}, and muster needs {major}.{minor} or newer: in older ones a \
         device can reach other devices; update the broker",
        client.server_info().version
    );
    Ok(client)
}

fn settings(
    options: &ServeOptions,
    ca: &Path,
    credentials: &RoleCredentials,
    name: &'static str,
    connected: watch::Sender<u64>,
) -> Result<ConnectOptions> {
    Ok(ConnectOptions::with_credentials(&credentials.0)
        .context("a role's credentials for the broker are not usable")?
        .name(format!("muster {name}"))
        .add_root_certificates(ca.to_owned())
        .require_tls(options.nats_urls.iter().any(|url| url.starts_with("tls")))
        .ping_interval(Duration::from_secs(10))
        .connection_timeout(Duration::from_secs(5))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(u64::try_from(attempts).unwrap_or(20).min(20) * 50)
        })
        .event_callback(move |event| {
            let connected = connected.clone();
            async move {
                match event {
                    Event::Connected => {
                        connected.send_modify(|count| *count += 1);
                        tracing::debug!(role = name, "connected to the broker");
                    }
                    Event::Disconnected => {
                        tracing::warn!(role = name, "the connection to the broker was lost");
                    }
                    Event::ServerError(error) => {
                        tracing::warn!(role = name, %error, "the broker reported an error");
                    }
                    other => tracing::debug!(
                        role = name, event = %other,
                        "an event of the broker's connection"
                    ),
                }
            }
        }))
}
