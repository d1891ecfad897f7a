//! Sessions: shells on devices, and connections from them.

use muster_schemas::events::SessionKind;
use muster_schemas::{SessionId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::DeviceRef;
use crate::union::describe_union;
use crate::{Open, schema};

/// Status of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// The session was requested, and has not ended.
    #[default]
    Open,
    /// The device refused the session.
    Refused,
    /// The session has ended.
    Ended,
}

impl SessionStatus {
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

/// What a session gives access to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Access {
    /// A shell.
    Shell(ShellAccess),
    /// A TCP connection from the device.
    Tcp(TcpAccess),
    /// Files of the device.
    Files(FileAccess),
}

describe_union! {
    /// What a session gives access to.
    Access {
        "shell" => ShellAccess,
        "tcp" => TcpAccess,
        "files" => FileAccess,
    }
}

/// A shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShellAccess {
    /// The requested user; null for the agent's own.
    pub user: Option<String>,
    /// A line for the shell; null for an interactive one.
    pub command: Option<String>,
}

/// A TCP connection from the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TcpAccess {
    /// The host, as the device resolves it.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Files of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileAccess {
    /// A file, or a folder with its contents; nothing else is accessible.
    pub path: String,
    /// Whether they can be modified.
    pub writable: bool,
}

impl From<SessionKind> for Access {
    fn from(kind: SessionKind) -> Self {
        match kind {
            SessionKind::Shell { user, command } => Self::Shell(ShellAccess { user, command }),
            SessionKind::Tcp { host, port } => Self::Tcp(TcpAccess { host, port }),
            SessionKind::Files { path, write } => Self::Files(FileAccess { path, writable: write }),
        }
    }
}

/// A shell on a device, or a connection from it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Id of the session.
    #[schema(value_type = schema::SessionId)]
    pub id: SessionId,
    /// The device.
    pub device: DeviceRef,
    /// Status of the session.
    #[schema(value_type = SessionStatus)]
    pub status: Open<SessionStatus>,
    /// What it gives access to.
    #[schema(value_type = Access)]
    pub access: Open<Access>,
    /// The actor that opened it.
    pub created_by: String,
    /// Address of the client that opened it.
    pub client_address: Option<String>,
    /// Time at which it was opened.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Number of currently attached clients.
    pub client_count: u64,
    /// Total number of attachments.
    pub attachment_count: u64,
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
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
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
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionUpdate {
    /// The session is open.
    Opened {
        /// Id of the session.
        session: SessionId,
        /// The device.
        device: DeviceRef,
    },
    /// The number of attached clients has changed.
    Attached {
        /// Number of clients that may type.
        client_count: u32,
        /// Number of clients that only watch.
        watcher_count: u32,
    },
    /// The program has ended.
    Exit {
        /// Its exit code, if it exited by itself.
        exit_code: Option<i32>,
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
        let attached = SessionUpdate::Attached { client_count: 1, watcher_count: 2 };
        assert_eq!(
            read(r#"{"kind": "attached", "client_count": 1, "watcher_count": 2, "x": 3}"#),
            attached
        );
        assert_eq!(read(r#"{"kind": "eof"}"#), SessionUpdate::Eof);
        assert_eq!(read(r#"{"kind": "later", "x": 3}"#), SessionUpdate::Unknown);
        assert_eq!(serde_json::to_string(&SessionUpdate::Eof).unwrap(), r#"{"kind":"eof"}"#);
    }

    #[test]
    fn control_messages_have_no_unknown_fields() {
        let read = |text: &str| serde_json::from_str::<SessionControl>(text).ok();
        assert_eq!(read(r#"{"kind": "ping"}"#), Some(SessionControl::Ping {}));
        assert_eq!(read(r#"{"kind": "ping", "x": 1}"#), None);
        assert_eq!(read(r#"{"kind": "later"}"#), None);
    }
}
