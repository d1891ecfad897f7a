//! The fold of a session's stream. Pure.

use muster_eventlog::StoredEvent;
use muster_schemas::events::SessionKind;
use muster_schemas::{Event, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// It was asked for, and is not over.
    #[default]
    Open,
    /// The device refused it.
    Refused,
    /// It is over.
    Ended,
}

impl SessionState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Ended => "ended",
        }
    }
}

/// Everything that the log says of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// What it is; absent only before it was asked for.
    pub session: Option<SessionKind>,
    /// Where it stands.
    pub state: SessionState,
    /// Who opened it.
    pub actor: String,
    /// From where.
    pub address: Option<String>,
    /// When.
    pub opened_at: Timestamp,
    /// The position of that event.
    pub created_position: u64,
    /// Is what it shows recorded?
    pub recorded: bool,
    /// And what is typed?
    pub input_recorded: bool,
    /// How many were attached, whoever opened it among them.
    pub attachments: u64,
    /// How many have left.
    pub detachments: u64,
    /// When somebody was attached last.
    pub left_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended, or why it was refused.
    pub reason: Option<String>,
    /// The shell's exit code.
    pub exit_code: Option<i32>,
    /// How many bytes its recording is; the pieces are in a table of their own.
    pub recording_bytes: u64,
}

impl Session {
    /// The state after an event.
    pub fn evolve(&mut self, stored: &StoredEvent, event: Event) {
        match event {
            Event::SessionRequested(asked) => {
                self.session = Some(asked.session);
                self.actor.clone_from(&stored.actor);
                self.address = asked.address;
                self.opened_at = stored.recorded_at;
                self.created_position = stored.position;
                self.recorded = asked.recorded;
                self.input_recorded = asked.input_recorded;
                self.attachments = 1;
            }
            Event::SessionAttached(_) => self.attachments += 1,
            Event::SessionDetached(_) => {
                self.detachments += 1;
                self.left_at = Some(stored.recorded_at);
            }
            // One that attached and was refused leaves an open session open.
            Event::SessionRefused(_) if self.attachments > 1 => self.detachments += 1,
            Event::SessionRefused(refused) => {
                self.detachments = self.attachments;
                self.state = SessionState::Refused;
                self.ended_at = Some(stored.recorded_at);
                self.reason = Some(refused.reason);
            }
            Event::SessionRecorded(piece) => self.recording_bytes += piece.bytes,
            Event::SessionEnded(ended) => {
                self.detachments = self.attachments;
                self.state = SessionState::Ended;
                self.ended_at.get_or_insert(stored.recorded_at);
                self.exit_code = ended.exit_code.or(self.exit_code);
                self.reason.get_or_insert(ended.reason);
            }
            Event::ShellEnded(ended) => {
                self.detachments = self.attachments;
                self.state = SessionState::Ended;
                self.ended_at.get_or_insert(stored.recorded_at);
                self.exit_code = ended.exit_code.or(self.exit_code);
                self.reason.get_or_insert(ended.reason);
            }
            _ => {}
        }
    }

    /// How many are attached now.
    #[must_use]
    pub const fn attached(&self) -> u64 {
        self.attachments.saturating_sub(self.detachments)
    }
}
