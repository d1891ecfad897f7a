//! A session that is being opened: its request is in the log, and its relay has a lease.

use muster_schemas::{Event, StreamVersion};
use uuid::Uuid;

use super::relay_rows::{Relay, RelayRows};
use super::relays::LEASE_TTL;
use super::session::Session;
use crate::error::CommandError;

/// A requested session; later, its relay. If the client disconnects before the relay starts,
/// dropping this records it.
#[derive(Debug)]
pub struct Opening {
    session: Session,
    /// Event to record when the relay does not start.
    abort_event: Option<Event>,
    /// Id of the relay, while its lease is renewed.
    relay: Option<Uuid>,
}

impl Opening {
    /// Records that a session is requested, or attached to; returns the version of that event in
    /// the session's stream. `left` is the event to record when the relay does not start.
    ///
    /// # Errors
    /// When the event was not appended.
    pub async fn record_request(
        session: &Session,
        requested: impl Into<Event> + Send,
        abort_event: impl Into<Event> + Send,
    ) -> Result<(Self, StreamVersion), CommandError> {
        let left = abort_event.into();
        let relay = Relay {
            id: Uuid::new_v4(),
            project: session.project.clone(),
            device: session.device,
            session: session.id,
            is_shell: matches!(left, Event::SessionDetached(_)),
            actor: session.actor.clone(),
        };
        let (relays, log) = (session.relays(), &session.channels().executor.log);
        RelayRows(log).put(&relay, LEASE_TTL).await?;
        relays.leased().insert(relay.id);
        let relay = Some(relay.id);
        let mut opening = Self { session: session.clone(), abort_event: None, relay };
        let version = session.record(requested).await?;
        opening.abort_event = Some(left);
        Ok((opening, version))
    }

    /// Ends the relay, or an opening whose failure is known. `is_known`: whether its end is in the
    /// log.
    pub async fn end(mut self, is_known: bool) {
        self.abort_event = None;
        if let Some(relay) = self.relay.take() {
            release(&self.session, relay, is_known).await;
        }
    }
}

/// Stops renewing a lease. If the end is not in the log, it is recorded when the lease has expired.
async fn release(session: &Session, relay: Uuid, is_known: bool) {
    session.relays().leased().remove(&relay);
    if is_known && let Err(error) = RelayRows(&session.channels().executor.log).remove(relay).await
    {
        tracing::debug!(%error, "failed to delete a relay; it expires");
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        let (session, left) = (self.session.clone(), self.abort_event.take());
        tokio::spawn(async move {
            let is_known = match left {
                Some(left) => session.record_best_effort(left).await,
                None => false,
            };
            release(&session, relay, is_known).await;
        });
    }
}
