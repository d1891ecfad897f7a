//! End of what was opened with a token, when the token is revoked, has expired, or no longer allows
//! it.

use std::time::Duration;

use muster_api::auth::{ApiTokenState, Permission};
use muster_eventlog::EventLog;
use muster_schemas::{ProjectId, StreamName, StreamVersion, TokenId};

use super::session::Session;
use crate::clock::now;
use crate::error::CommandError;

/// Interval between checks of a session's token.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Waits until the session's token no longer allows it to stay open, and returns the reason. While
/// the log cannot be read the session is kept: tokens cannot be revoked then either.
pub(super) async fn wait_until_ended(session: &Session) -> String {
    let Some(mut token) = Token::from_actor(&session.project, &session.actor) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        match token.check(&session.channels().executor.log).await {
            Ok(None) => {}
            Ok(Some(reason)) => return reason,
            Err(error) => {
                tracing::debug!(session = %session.id, %error, "failed to check a session's token");
            }
        }
    }
}

/// A token that has opened something in a project.
pub(super) struct Token {
    id: TokenId,
    project: ProjectId,
    stream: StreamName,
    /// The log that contains the token's stream, its version, and the state at that version.
    cached: Option<(ProjectId, StreamVersion, ApiTokenState)>,
}

impl Token {
    /// The token of an actor; `None` for an actor that is not a token.
    pub(super) fn from_actor(project: &ProjectId, actor: &str) -> Option<Self> {
        let id = actor.strip_prefix("token:")?.parse().ok()?;
        Some(Self { id, project: project.clone(), stream: StreamName::Token(id), cached: None })
    }

    /// Returns why what was opened with the token must end; `None` while it may stay open.
    pub(super) async fn check(&mut self, log: &EventLog) -> Result<Option<String>, CommandError> {
        self.refresh(log).await?;
        let Some((_, _, state)) = &self.cached else {
            return Ok(Some(format!("the token {} is unknown", self.id)));
        };
        Ok(match state.role_at(now()) {
            Ok(role) if Permission::RunOperations.roles().contains(&role) => None,
            Ok(role) => Some(format!("the token's role is {role} now")),
            Err(refusal) => Some(refusal.to_string()),
        })
    }

    /// Reads the token's stream if its version has changed.
    async fn refresh(&mut self, log: &EventLog) -> Result<(), CommandError> {
        let places = match &self.cached {
            Some((project, _, _)) => vec![project.clone()],
            // A server-wide token is in the log `system`.
            None => vec![self.project.clone(), ProjectId::system()],
        };
        for project in places {
            let version = log.stream_version(&project, &self.stream).await?;
            if version == StreamVersion::ZERO {
                continue;
            }
            if self.cached.as_ref().is_some_and(|(_, cached_version, _)| *cached_version == version)
            {
                return Ok(());
            }
            let stored = log.read_stream(&project, &self.stream).await?;
            let stored = log.authentic(&project, stored).await;
            let mut state = ApiTokenState::default();
            for event in &stored {
                state = state.evolve(&event.event()?, event.recorded_at);
            }
            self.cached = Some((project, version, state));
            return Ok(());
        }
        Ok(())
    }
}
