//! Renewal of the relays' leases: when the process stops, it ends its relays and records how they
//! ended. For a process that was killed, another process records it.
//!
//! PostgreSQL has a row with a lease for each relay, which its process renews. An expired lease
//! means that the process has ended, or could not record how the relay ended.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use async_recursion::async_recursion as boxed;
use muster_eventlog::StoredEvent;
use muster_schemas::Event;
use muster_schemas::events::{
    SessionAttached, SessionDetached, SessionEnded, SessionRefused, SessionRequested,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ports::Channels;
use super::relay_rows::{Relay, RelayRows};
use super::relays::LEASE_TTL;
use super::session::Session;
use crate::error::CommandError;

/// Time that relays have to record how they ended when the process stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between renewals of leases.
const LEASE_RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// Maximum number of expired leases that are checked together.
const MAX_LEASES_PER_CHECK: u32 = 200;
/// Name of the lease that allows a process to reap the relays of other processes.
const REAPER_LEASE: &str = "reap-bridges";
/// Reason of the end of a relay whose process has ended.
const PROCESS_ENDED: &str = "the server that relayed it has ended";

impl Channels {
    /// Renews the leases of this process's relays and reaps expired ones until `stop`; then ends
    /// all relays: recordings are written completely, and the log records the detached clients.
    #[boxed]
    pub async fn maintain_relays(&self, stop: CancellationToken) {
        let mut expired = ExpiredLeases::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LEASE_RENEW_INTERVAL) => {}
            }
            if let Err(error) = self.renew_and_reap(&mut expired).await {
                tracing::debug!(%error, "failed to renew the leases of relays; trying again");
            }
        }
        self.relays.stop.cancel();
        self.relays.tasks.close();
        if timeout(SHUTDOWN_TIMEOUT, self.relays.tasks.wait()).await.is_err() {
            tracing::warn!(open = self.relays.tasks.len(), "some relays have not ended");
        }
    }

    async fn renew_and_reap(&self, expired: &mut ExpiredLeases) -> Result<(), CommandError> {
        let held: Vec<Uuid> = self.relays.leased().iter().copied().collect();
        if !held.is_empty() {
            self.relay_rows().renew(&held, LEASE_TTL).await?;
        }
        let stale = self.relay_rows().expired(MAX_LEASES_PER_CHECK).await?;
        let due = expired.due(&stale, Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let process = self.relays.process;
        if self.executor.log.acquire_lease(REAPER_LEASE, process, LEASE_TTL * 3).await?.is_some() {
            let spoken = self.reap_all(&due).await;
            self.executor.log.release_lease(REAPER_LEASE, process).await?;
            spoken?;
        }
        Ok(())
    }

    async fn reap_all(&self, due: &BTreeSet<Uuid>) -> Result<(), CommandError> {
        // Another process may have reaped some of them meanwhile.
        for relay in self.relay_rows().expired(MAX_LEASES_PER_CHECK).await? {
            if !due.contains(&relay.id) {
                continue;
            }
            let id = relay.id;
            match self.reap(relay).await {
                Ok(()) => self.relay_rows().remove(id).await?,
                Err(error) => {
                    tracing::warn!(
                        relay = %id, %error,
                        "failed to record the end of a relay; trying again"
                    );
                }
            }
        }
        Ok(())
    }

    /// Records the end of a relay, unless the log has it already.
    fn relay_rows(&self) -> RelayRows<'_> {
        RelayRows(&self.executor.log)
    }

    async fn reap(&self, relay: Relay) -> Result<(), CommandError> {
        let Relay { project, device, session, is_shell, actor, .. } = relay;
        let session = Session::new(self.clone(), project, device, session, actor);
        let stored = self.executor.log.read_stream(&session.project, &session.stream()).await?;
        // Each attached client has a relay. If the stream has more attached clients than relays
        // exist, this relay's end is missing.
        if attached(&stored) < self.relay_rows().count(session.id).await? {
            return Ok(());
        }
        tracing::info!(session = %session.id, "a session's server has ended; its relay is reaped");
        let reason = PROCESS_ENDED.to_owned();
        let event: Event = if is_shell {
            SessionDetached { reason }.into()
        } else {
            SessionEnded { exit_code: None, reason, bytes_in: 0, bytes_out: 0 }.into()
        };
        match session.record(event).await {
            // For example an archived project: nothing more will be written there.
            Ok(_) | Err(CommandError::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The number of attached clients, according to the session's stream.
fn attached(stored: &[StoredEvent]) -> u64 {
    let (mut all, mut left) = (0_u64, 0);
    for event in stored {
        match event.kind.as_str() {
            SessionRequested::TYPE | SessionAttached::TYPE => all += 1,
            SessionDetached::TYPE | SessionRefused::TYPE => left += 1,
            SessionEnded::TYPE => left = all,
            _ => {}
        }
    }
    all.saturating_sub(left)
}

/// The times at which leases were first seen as expired.
#[derive(Debug, Default)]
struct ExpiredLeases(HashMap<Uuid, Instant>);

impl ExpiredLeases {
    /// Returns the relays whose processes had enough time to renew their leases.
    fn due(&mut self, expired: &[Relay], now: Instant) -> BTreeSet<Uuid> {
        self.0.retain(|id, _| expired.iter().any(|relay| relay.id == *id));
        for relay in expired {
            self.0.entry(relay.id).or_insert(now);
        }
        let is_due = |since: &Instant| now.duration_since(*since) >= LEASE_TTL;
        self.0.iter().filter(|(_, since)| is_due(since)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::{DeviceId, ProjectId, SessionId};

    use super::*;

    #[test]
    fn an_expired_relay_gets_another_lease_period_before_it_is_reaped() {
        let (mut expired, now) = (ExpiredLeases::default(), Instant::now());
        let relay = |id| Relay {
            id: Uuid::from_u128(id),
            project: ProjectId::default_project(),
            device: DeviceId(Uuid::nil()),
            session: SessionId(Uuid::nil()),
            is_shell: true,
            actor: "token:x".to_owned(),
        };
        let (one, two) = (relay(1), relay(2));
        assert!(expired.due(&[one.clone(), two.clone()], now).is_empty());
        let later = now + LEASE_TTL / 2;
        assert!(expired.due(std::slice::from_ref(&two), later).is_empty(), "the other was kept");
        assert_eq!(expired.due(&[one, two.clone()], now + LEASE_TTL), BTreeSet::from([two.id]));
        assert!(expired.due(&[], now + LEASE_TTL * 2).is_empty());
    }
}
