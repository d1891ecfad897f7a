//! The fold of a session's stream. Pure.

use muster_api_types::sessions::SessionStatus;
use muster_eventlog::StoredEvent;
use muster_schemas::events::SessionKind;
use muster_schemas::{Event, Position, Timestamp};
use serde::{Deserialize, Serialize};

/// The state of a session in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Kind of the session; absent only before its request.
    pub session: Option<SessionKind>,
    /// State of the session.
    pub state: SessionStatus,
    /// The actor that opened it.
    pub actor: String,
    /// Address of the client that opened it.
    pub address: Option<String>,
    /// Time at which it was opened.
    pub opened_at: Timestamp,
    /// Position of the request.
    pub created_position: Position,
    /// Whether its output is recorded.
    pub recorded: bool,
    /// Whether its input is recorded.
    pub input_recorded: bool,
    /// Total number of attachments, including the one of the actor that opened it.
    pub attachments: u64,
    /// Number of detachments.
    pub detachments: u64,
    /// Time of the last detachment.
    pub left_at: Option<Timestamp>,
    /// Time at which it ended.
    pub ended_at: Option<Timestamp>,
    /// Reason of its end, or of its refusal.
    pub reason: Option<String>,
    /// The shell's exit code.
    pub exit_code: Option<i32>,
    /// Size of its recording, in bytes; the pieces are in a table of their own.
    pub recording_bytes: u64,
}

impl Session {
    /// Applies an event.
    pub fn evolve(&mut self, stored: &StoredEvent, event: Event) {
        match event {
            Event::SessionRequested(request) => {
                self.session = Some(request.session);
                self.actor.clone_from(&stored.actor);
                self.address = request.address;
                self.opened_at = stored.recorded_at;
                self.created_position = stored.position;
                self.recorded = request.recorded;
                self.input_recorded = request.input_recorded;
                self.attachments = 1;
            }
            Event::SessionAttached(_) => self.attachments += 1,
            Event::SessionDetached(_) => {
                self.detachments += 1;
                self.left_at = Some(stored.recorded_at);
            }
            // The refusal of a further attachment does not end the session.
            Event::SessionRefused(_) if self.attachments > 1 => self.detachments += 1,
            Event::SessionRefused(refusal) => {
                self.detachments = self.attachments;
                self.state = SessionStatus::Refused;
                self.ended_at = Some(stored.recorded_at);
                self.reason = Some(refusal.reason);
            }
            Event::SessionRecorded(piece) => self.recording_bytes += piece.bytes,
            Event::SessionEnded(ended) => {
                self.detachments = self.attachments;
                self.state = SessionStatus::Ended;
                self.ended_at.get_or_insert(stored.recorded_at);
                self.exit_code = ended.exit_code.or(self.exit_code);
                self.reason.get_or_insert(ended.reason);
            }
            Event::ShellEnded(ended) => {
                self.detachments = self.attachments;
                self.state = SessionStatus::Ended;
                self.ended_at.get_or_insert(stored.recorded_at);
                self.exit_code = ended.exit_code.or(self.exit_code);
                self.reason.get_or_insert(ended.reason);
            }
            _ => {}
        }
    }

    /// Returns the number of currently attached clients.
    #[must_use]
    pub const fn attached(&self) -> u64 {
        self.attachments.saturating_sub(self.detachments)
    }
}
