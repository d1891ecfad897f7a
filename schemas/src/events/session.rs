//! Sessions: shells, connections and file transfers that users open on devices, and their clients.

use serde::{Deserialize, Serialize};

use crate::cose::Hash;
use crate::ids::SessionId;

/// The kind of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionKind {
    /// A shell.
    Shell {
        /// The requested user; the agent's own when absent.
        #[serde(default)]
        user: Option<String>,
        /// A line for the shell, instead of an interactive one.
        #[serde(default)]
        command: Option<String>,
    },
    /// A TCP connection from the device.
    Tcp {
        /// The host, as the device resolves it.
        host: String,
        /// The port.
        port: u16,
    },
    /// Files of the device.
    Files {
        /// A file, or a folder with its contents; nothing else was accessible.
        path: String,
        /// Whether they could be modified.
        write: bool,
    },
}

/// A session was requested; its order is sent to the device after this. Stream
/// `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequested {
    /// The kind.
    pub session: SessionKind,
    /// The client's address.
    #[serde(default)]
    pub address: Option<String>,
    /// Whether its output is recorded.
    pub recorded: bool,
    /// Whether its input is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input_recorded: bool,
}

/// A client attached to a session. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAttached {
    /// The client's address.
    #[serde(default)]
    pub address: Option<String>,
    /// Whether it only watches.
    pub watch: bool,
}

/// A client detached. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDetached {
    /// The reason, as text.
    pub reason: String,
}

/// A device refused a session. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRefused {
    /// The reason, as text.
    pub reason: String,
}

/// A piece of a session's recording. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecorded {
    /// The recording: each attachment that records has its own.
    pub recording: u32,
    /// Its index in that recording, from 0.
    pub chunk: u32,
    /// Its size in bytes: lines of asciicast v2.
    pub bytes: u64,
    /// SHA-256 of a salt, which is stored with the bytes, and the bytes.
    pub hash: Hash,
}

/// A shell ended on its device, with or without clients. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellEnded {
    /// The session.
    pub session: SessionId,
    /// The exit code, unless a signal ended the program.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The reason, as text.
    pub reason: String,
}

/// A session ended. Stream `session/<id>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnded {
    /// The shell's exit code, unless a signal ended it.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The reason, as text.
    pub reason: String,
    /// Number of bytes sent to the device.
    pub bytes_in: u64,
    /// Number of bytes received from it.
    pub bytes_out: u64,
}
