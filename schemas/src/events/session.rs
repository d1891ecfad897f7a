//! Sessions: shells and connections that people open on devices, and who did what in them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cose::Hash;
use crate::ids::SessionId;

/// What a session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionKind {
    /// A shell.
    Shell {
        /// The user that it was asked to run as; the agent's own when absent.
        #[serde(default)]
        user: Option<String>,
        /// A line for the shell, in place of an interactive one.
        #[serde(default)]
        command: Option<String>,
    },
    /// A TCP connection from the device.
    Tcp {
        /// The host, as the device knows it.
        host: String,
        /// The port.
        port: u16,
    },
    /// Files of the device.
    Files {
        /// A file, or a folder with all that is in it; nothing else could be reached.
        path: String,
        /// Could they be changed?
        write: bool,
    },
}

/// Somebody wants a shell, or a connection; the order goes to the device after this. Stream
/// `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionRequested {
    /// What.
    pub session: SessionKind,
    /// From which address.
    #[serde(default)]
    pub address: Option<String>,
    /// Is its output recorded?
    pub recorded: bool,
    /// And what is typed?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input_recorded: bool,
}

/// Somebody attaches to a session. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionAttached {
    /// From which address.
    #[serde(default)]
    pub address: Option<String>,
    /// Only to look on.
    pub watch: bool,
}

/// Somebody is not attached any more. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionDetached {
    /// Why, in words.
    pub reason: String,
}

/// A device did not open a session, or a connection. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionRefused {
    /// Why, in words.
    pub reason: String,
}

/// A piece of a session's recording. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionRecorded {
    /// The recording that it belongs to: each attachment that records makes one.
    pub recording: u32,
    /// Its place in that recording, from 0.
    pub chunk: u32,
    /// How many bytes it is: lines of asciicast v2.
    pub bytes: u64,
    /// SHA-256 of a salt, which is kept beside the bytes, and the bytes.
    pub hash: Hash,
}

/// A shell has ended on its device, whoever was attached. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShellEnded {
    /// The session.
    pub session: SessionId,
    /// The exit code, when the program ended by itself.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Why, in words.
    pub reason: String,
}

/// A session, or a connection, is over. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionEnded {
    /// The shell's exit code, when it ended by itself.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Why, in words.
    pub reason: String,
    /// Bytes that went to the device.
    pub bytes_in: u64,
    /// Bytes that came from it.
    pub bytes_out: u64,
}
