//! Keeps the device connected: credentials, connection, session, and a retry after each failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use muster_channel::Publisher;
use muster_schemas::errors::error_chain;
use muster_schemas::subjects::DeviceSubjects;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use super::Link;
use super::connect::{ConnectError, Route, broker_addresses, connect};
use super::driver::{End, drive};
use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::connection::Connection;
use crate::enroll::CredentialsError;
use crate::identity::{Credentials, Identity};
use crate::session::Session;

/// Minimum duration of a connection that resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Number of failed attempts after which the agent requests the broker's address from the servers
/// again.
const ATTEMPTS_BEFORE_REFRESH: u32 = 4;
/// Timeout for the broker's confirmation of a batch or an event.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects, and reconnects indefinitely.
pub(crate) async fn keep_connected(link: &Link) {
    let (project, device) = (link.identity.project.clone(), link.identity.device);
    let mut session = Session::new(Arc::clone(link.recorder.outbox()), project, device);
    let mut credentials = link.credentials.stored();
    let mut backoff = Backoff::reconnect();
    // Consecutive failed attempts: the broker may have moved, and new credentials name its address.
    let mut missed = 0_u32;
    // The previous connection stays open until the next one is up, so that a renewal does not
    // interrupt the device's presence.
    let mut before: Option<Client> = None;
    loop {
        let has_moved = missed > 0 && missed.is_multiple_of(ATTEMPTS_BEFORE_REFRESH);
        let current = match usable_credentials(link, credentials.take(), has_moved).await {
            Ok(current) => current,
            Err(error) => {
                record_failure(&link.connection, &error_chain(&error), &mut backoff).await;
                continue;
            }
        };
        let made = connect_to_any(&link.identity, &current).await;
        drop(before.take());
        let (client, broker, events) = match made {
            Ok(made) => made,
            Err(error) => {
                missed += 1;
                let is_denied = matches!(error, ConnectError::Broker { is_denied: true, .. });
                if !is_denied {
                    credentials = Some(current);
                }
                record_failure(&link.connection, &error.to_string(), &mut backoff).await;
                continue;
            }
        };
        missed = 0;
        let started = Instant::now();
        let end = match set_up(link, &client, &broker).await {
            Ok(publisher) => drive(link, &mut session, publisher, events, &current).await,
            Err(error) => End::Lost(error.into()),
        };
        link.connection.set_disconnected(&client);
        if started.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        match end {
            End::Renewed(new) => {
                credentials = Some(new);
                before = Some(client);
            }
            End::Lost(lost) => {
                if !lost.is_denied() {
                    credentials = Some(current);
                }
                drop(client);
                record_failure(&link.connection, &lost.to_string(), &mut backoff).await;
            }
        }
    }
}

/// Returns the cached credentials, or new ones if those have expired or the broker may have moved.
async fn usable_credentials(
    link: &Link,
    cached: Option<Credentials>,
    has_moved: bool,
) -> Result<Credentials, CredentialsError> {
    let usable = cached.filter(|cached| cached.remaining(&Moment::now()) != Some(Duration::ZERO));
    let cached = match usable {
        Some(cached) if !has_moved => return Ok(cached),
        Some(cached) => cached,
        None => return link.credentials.renew().await,
    };
    // The broker may return before the server that gives credentials.
    Ok(link.credentials.renew().await.unwrap_or_else(|error| {
        tracing::info!(
            problem = error_chain(&error),
            "failed to get new broker credentials; using the stored ones"
        );
        cached
    }))
}

async fn connect_to_any(
    identity: &Identity,
    credentials: &Credentials,
) -> Result<(Client, String, tokio::sync::mpsc::Receiver<async_nats::Event>), ConnectError> {
    let mut addresses = broker_addresses(&credentials.response.servers, &identity.url)?;
    addresses.shuffle(&mut rand::rng());
    let mut last = ConnectError::NoAddress;
    for address in &addresses {
        match connect(identity, credentials, address, Route::BrokerPort).await {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    // A broker that refused the credentials would refuse them through the HTTPS listener, too. The
    // direct port is always tried first, so that it is used again as soon as it is open.
    let (Some(address), ConnectError::Broker { is_denied: false, .. }) = (addresses.first(), &last)
    else {
        return Err(last);
    };
    tracing::info!(error = %last, "trying the server's HTTPS port");
    connect(identity, credentials, address, Route::HttpsListener).await.map_err(|error| match error
    {
        ConnectError::Broker { is_denied: false, problem, .. } => {
            ConnectError::NoRoute { straight: last.to_string(), https: problem }
        }
        denied => denied,
    })
}

async fn set_up(
    link: &Link,
    client: &Client,
    broker: &str,
) -> Result<Publisher, async_nats::SubscribeError> {
    let stored = DeviceSubjects::new(&link.identity.project, link.identity.device).stored();
    let publisher = Publisher::new(client.clone(), stored, CONFIRM_TIMEOUT).await?;
    link.connection.set_connected(publisher.clone(), broker);
    tracing::info!(broker, "connected");
    Ok(publisher)
}

/// Records the failure of an attempt, and waits until the next one.
async fn record_failure(connection: &Connection, problem: &str, backoff: &mut Backoff) {
    let delay = backoff.next_delay(rand::random());
    connection.set_last_error(problem);
    tracing::warn!(problem, wait_ms = delay.as_millis(), "not connected; retrying");
    sleep(delay).await;
}
