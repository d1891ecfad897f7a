//! Sessions: shells on devices, and connections from them.

use muster_schemas::events::SessionKind;
use muster_schemas::{DeviceId, SessionId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Open, schema};

/// State of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// The session was requested, and has not ended.
    #[default]
    Open,
    /// The device refused the session.
    Refused,
    /// The session has ended.
    Ended,
}

impl SessionState {
    /// Returns its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Ended => "ended",
        }
    }
}

/// A shell on a device, or a connection from it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Id of the session.
    #[schema(value_type = schema::SessionId)]
    pub id: SessionId,
    /// The device.
    #[schema(value_type = schema::DeviceId)]
    pub device: DeviceId,
    /// The device's name.
    #[schema(value_type = Option<schema::DeviceName>)]
    pub name: Option<String>,
    /// State of the session.
    #[schema(value_type = SessionState)]
    pub state: Open<SessionState>,
    /// Kind of the session.
    #[schema(value_type = schema::SessionKind)]
    pub session: Open<SessionKind>,
    /// The actor that opened it.
    pub actor: String,
    /// Address of the client that opened it.
    pub address: Option<String>,
    /// Time at which it was opened.
    #[schema(value_type = schema::Timestamp)]
    pub opened_at: Timestamp,
    /// Number of currently attached clients.
    pub attached: u64,
    /// Total number of attachments.
    pub attachments: u64,
    /// Whether its output is recorded.
    pub recorded: bool,
    /// Whether its input is recorded.
    pub input_recorded: bool,
    /// Size of the recording, in bytes.
    pub recording_bytes: u64,
    /// Time at which it ended.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub ended_at: Option<Timestamp>,
    /// Reason of its end, or of its refusal.
    pub reason: Option<String>,
    /// The shell's exit code.
    pub exit_code: Option<i32>,
}

/// An ended session.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"ended": true}))]
pub struct SessionEndedResult {
    /// Whether the session was ended; always true.
    pub ended: bool,
}

/// A message of a client about its session, as text of the websocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionControl {
    /// The terminal has a new size.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// Keep-alive.
    Ping {},
    /// End of the input.
    Eof {},
}

/// A message of the server about a session, as text of the websocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionUpdate {
    /// The session is open.
    Opened {
        /// Id of the session.
        session: SessionId,
        /// The device.
        device: DeviceId,
    },
    /// The number of attached clients has changed.
    Attached {
        /// Clients that may type.
        shared: u32,
        /// Clients that only watch.
        watching: u32,
    },
    /// The program has ended.
    Exit {
        /// Its exit code, if it exited by itself.
        code: Option<i32>,
        /// Reason of another end.
        reason: Option<String>,
    },
    /// The device sends no more bytes.
    Eof,
    /// A message of a later server.
    #[serde(other, skip_serializing)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_later_server_are_ignored() {
        let read = |text: &str| serde_json::from_str::<SessionUpdate>(text).unwrap();
        let attached = SessionUpdate::Attached { shared: 1, watching: 2 };
        assert_eq!(read(r#"{"type": "attached", "shared": 1, "watching": 2, "x": 3}"#), attached);
        assert_eq!(read(r#"{"type": "eof"}"#), SessionUpdate::Eof);
        assert_eq!(read(r#"{"type": "later", "x": 3}"#), SessionUpdate::Unknown);
        assert_eq!(serde_json::to_string(&SessionUpdate::Eof).unwrap(), r#"{"type":"eof"}"#);
    }

    #[test]
    fn control_messages_have_no_unknown_fields() {
        let read = |text: &str| serde_json::from_str::<SessionControl>(text).ok();
        assert_eq!(read(r#"{"type": "ping"}"#), Some(SessionControl::Ping {}));
        assert_eq!(read(r#"{"type": "ping", "x": 1}"#), None);
        assert_eq!(read(r#"{"type": "later"}"#), None);
    }
}
