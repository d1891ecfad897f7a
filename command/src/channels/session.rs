//! Events of sessions: who opened, attached or watched, from which address, and how it ended.

use std::sync::Arc;

use muster_eventlog::{Append, AppendError, Expected, NewEvent};
use muster_schemas::{DeviceId, Event, ProjectId, SessionId, StreamName, StreamVersion};
use uuid::Uuid;

use super::ports::Channels;
use super::relays::Relays;
use crate::clock::now;
use crate::error::CommandError;
use crate::executor::until_appended;

/// One session's stream, as written by one actor.
#[derive(Clone, Debug)]
pub struct Session {
    channels: Channels,
    /// Project of the session.
    pub project: ProjectId,
    /// Device of the session.
    pub device: DeviceId,
    /// Id of the session.
    pub id: SessionId,
    /// Actor of the events: `token:<id>`.
    pub actor: String,
}

impl Session {
    /// Creates a session on a device.
    #[must_use]
    pub const fn new(
        channels: Channels,
        project: ProjectId,
        device: DeviceId,
        id: SessionId,
        actor: String,
    ) -> Self {
        Self { channels, project, device, id, actor }
    }

    /// The ports of the session.
    #[must_use]
    pub const fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The relays of this process.
    #[must_use]
    pub fn relays(&self) -> Arc<Relays> {
        Arc::clone(&self.channels.relays)
    }

    /// The name of the session's stream.
    #[must_use]
    pub const fn stream(&self) -> StreamName {
        StreamName::Session(self.id, self.device)
    }

    /// Whether this session's actor opened it, rather than attached to it. Also true when the log
    /// cannot be read: the caller then ends the session, which is the safe choice.
    pub(super) async fn was_opened_by_its_actor(&self) -> bool {
        match self.channels.executor.log.read_stream(&self.project, &self.stream()).await {
            Ok(stored) => {
                let stored = self.channels.executor.log.authentic(&self.project, stored).await;
                stored.first().is_none_or(|first| first.actor == self.actor)
            }
            Err(error) => {
                tracing::warn!(session = %self.id, %error, "failed to read who opened a session");
                true
            }
        }
    }

    /// Appends an event and returns its version in the stream.
    ///
    /// # Errors
    /// When the event was not appended.
    pub async fn record(
        &self,
        event: impl Into<Event> + Send,
    ) -> Result<StreamVersion, CommandError> {
        self.record_once(Uuid::new_v4(), event).await
    }

    /// Appends an event at most once for each append id, like [`Self::record`].
    ///
    /// # Errors
    /// When the event may not have been appended.
    pub async fn record_once(
        &self,
        append_id: Uuid,
        event: impl Into<Event> + Send,
    ) -> Result<StreamVersion, CommandError> {
        let event: Event = event.into();
        let (executor, stream) = (&self.channels.executor, self.stream());
        executor.check_not_archived(&self.project).await?;
        until_appended(|| async {
            let version = executor.log.stream_version(&self.project, &stream).await?;
            let append = Append {
                append_id: Some(append_id),
                correlation: Some(self.id.0),
                ..Append::by_actor(self.actor.clone())
            };
            let events = vec![NewEvent::server(&event, now())];
            let append = append.stream(stream.clone(), Expected::Version(version), events);
            match executor.log.append(&self.project, append).await {
                Ok(_) => Ok(Some(version.next())),
                Err(AppendError::Conflict { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Appends an event whose failure does not affect the caller: a failure is logged. Returns
    /// whether the event was appended.
    pub async fn record_best_effort(&self, event: impl Into<Event> + Send) -> bool {
        let recorded = self.record(event).await;
        if let Err(error) = &recorded {
            tracing::warn!(session = %self.id, %error, "failed to record an event of a session");
        }
        recorded.is_ok()
    }
}
