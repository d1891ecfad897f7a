//! Keeps the device connected: credentials, connection, session, and a retry after each failure.

use std::time::{Duration, Instant};

use async_nats::Client;
use muster_channel::Publisher;
use muster_schemas::subjects::DeviceSubjects;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use super::connect::{ConnectError, Route, broker_addresses, connect};
use super::driver::{End, drive};
use crate::backoff::Backoff;
use crate::clock::{Anchor, Moment};
use crate::enroll::fetch_credentials;
use crate::identity::Credentials;
use crate::run::Shared;
use crate::session::Session;
use crate::store::key;

/// Minimum duration of a connection that resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Number of failed attempts after which the agent requests the broker's address from the servers
/// again.
const ATTEMPTS_BEFORE_REFRESH: u32 = 4;
/// Timeout for the broker's confirmation of a batch or an event.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects, and reconnects indefinitely.
pub(crate) async fn keep_connected(shared: &Shared) {
    let (project, device) = (shared.identity.project.clone(), shared.identity.device);
    let mut session = Session::new(std::sync::Arc::clone(&shared.outbox), project, device);
    let mut credentials: Option<Credentials> =
        shared.store.get(key::CREDENTIALS).unwrap_or_default();
    let mut backoff = Backoff::reconnect();
    // Consecutive failed attempts: the broker may have moved, and new credentials name its address.
    let mut missed = 0_u32;
    // The previous connection stays open until the next one is up, so that a renewal does not
    // interrupt the device's presence.
    let mut before: Option<Client> = None;
    loop {
        let usable =
            credentials.take().filter(|cached| cached.remaining(&Moment::now()) != Some(0));
        let has_moved = missed > 0 && missed.is_multiple_of(ATTEMPTS_BEFORE_REFRESH);
        let current = match usable {
            Some(cached) if !has_moved => cached,
            cached => match (renew(shared).await, cached) {
                (Ok(new), _) => new,
                // The broker may return before the server that gives credentials.
                (Err(problem), Some(cached)) => {
                    tracing::info!(
                        problem,
                        "failed to get new broker credentials; using the stored ones"
                    );
                    cached
                }
                (Err(problem), None) => {
                    record_failure(shared, &problem, backoff.next_delay(rand::random())).await;
                    continue;
                }
            },
        };
        let made = connect_to_any(shared, &current).await;
        drop(before.take());
        let (client, broker, events) = match made {
            Ok(made) => made,
            Err(error) => {
                missed += 1;
                let is_denied = matches!(error, ConnectError::Broker { is_denied: true, .. });
                if !is_denied {
                    credentials = Some(current);
                }
                record_failure(shared, &error.to_string(), backoff.next_delay(rand::random()))
                    .await;
                continue;
            }
        };
        missed = 0;
        let started = Instant::now();
        let end = match set_up(shared, &client, &broker).await {
            Ok(publisher) => drive(shared, &mut session, publisher, events, &current).await,
            Err(error) => End::Lost { problem: error.to_string(), is_denied: false },
        };
        shared.link.send_replace(None);
        shared.with_link_state(|state| state.connected = None);
        shared.counters.disconnected(&client);
        if started.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        match end {
            End::Renewed(new) => {
                credentials = Some(new);
                before = Some(client);
            }
            End::Lost { problem, is_denied } => {
                if !is_denied {
                    credentials = Some(current);
                }
                drop(client);
                record_failure(shared, &problem, backoff.next_delay(rand::random())).await;
            }
        }
    }
}

async fn connect_to_any(
    shared: &Shared,
    credentials: &Credentials,
) -> Result<(Client, String, tokio::sync::mpsc::Receiver<async_nats::Event>), ConnectError> {
    let identity = &shared.identity;
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
            ConnectError::NoRoute { straight: last.to_string(), door: problem }
        }
        denied => denied,
    })
}

async fn set_up(
    shared: &Shared,
    client: &Client,
    broker: &str,
) -> Result<Publisher, async_nats::SubscribeError> {
    let stored = DeviceSubjects::new(&shared.identity.project, shared.identity.device).stored();
    let publisher = Publisher::new(client.clone(), stored, CONFIRM_TIMEOUT).await?;
    shared.counters.connected();
    let now = Moment::now().wall;
    shared.with_link_state(|state| {
        state.connected = Some((Instant::now(), now, broker.to_owned()));
    });
    shared.link.send_replace(Some(publisher.clone()));
    tracing::info!(broker, "connected");
    Ok(publisher)
}

/// Fetches new credentials and stores them.
pub(super) async fn renew(shared: &Shared) -> Result<Credentials, String> {
    let new = fetch_credentials(&shared.identity, &shared.outbox.proving_keys())
        .await
        .map_err(|error| format!("{error}: {}", error.source))?;
    let server = new.response.server_time;
    if shared.server_time(&Moment::now()).is_none() {
        shared.set_anchor(Anchor { boot: new.boot, mono: new.mono, server });
    }
    if let Err(error) = shared.store.put(key::CREDENTIALS, &new) {
        tracing::warn!(%error, "failed to store the broker credentials");
    }
    tracing::info!(until = %new.response.expires_at, "received new broker credentials");
    Ok(new)
}

async fn record_failure(shared: &Shared, problem: &str, delay: Duration) {
    shared.set_last_error(problem);
    tracing::warn!(problem, wait_ms = delay.as_millis(), "not connected; retrying");
    sleep(delay).await;
}
