//! Channels: encrypted byte streams between a server and an agent.
//!
//! The server opens one by a [`ChannelOpen`] on `.cmd` (kind `open`); the device responds with a
//! [`ChannelAnswer`] (kind `opened`), which is the first message on `.ch.<channel>.up`. Both contain
//! an X25519 key generated for this channel. Later messages on `.up` and `.down` are ciphertext.

use serde::{Deserialize, Serialize};

use crate::cose::Hash;
use crate::ids::{ChannelId, DeviceId, ProjectId, SessionId};
use crate::numbers::Epoch;
use crate::timestamp::Timestamp;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// Suffix of the name of an incomplete file.
pub const FILE_PART_SUFFIX: &str = ".muster-part";
/// Maximum size of one read or write of a file, in bytes.
pub const MAX_SFTP_IO_BYTES: u32 = 128 * 1024;
/// Maximum number of bytes of a file that one request hashes.
pub const MAX_SFTP_HASH_BYTES: u64 = 64 << 20;
/// Name of an SFTP extension: the SHA-256 of a part of an open file. The request has the handle (a
/// string), an offset and a length (each eight bytes, big-endian); the response the number of bytes
/// (the same) and the 32 bytes of the hash.
pub const SFTP_SHA256: &str = "muster-sha256";

/// The purpose of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Purpose {
    /// A new shell session, with this channel attached to it.
    Shell {
        /// The session's id.
        session: SessionId,
        /// The user that the shell runs as; the agent's own when absent.
        #[serde(default)]
        user: Option<String>,
        /// A line for the shell, instead of an interactive one.
        #[serde(default)]
        command: Option<String>,
        /// The terminal's name, for `TERM`.
        term: String,
        /// The terminal's size.
        size: TerminalSize,
        /// Time for which the session is kept without a client, in seconds.
        grace_seconds: u32,
    },
    /// An existing session.
    Attach {
        /// The session's id.
        session: SessionId,
        /// Only watch: no input, no resizing.
        watch: bool,
        /// The terminal's size.
        size: TerminalSize,
    },
    /// End a session.
    End {
        /// The session's id.
        session: SessionId,
    },
    /// A TCP connection from the device.
    Tcp {
        /// The host, as the device resolves it.
        host: String,
        /// The port.
        port: u16,
    },
    /// Files of the device, by SFTP (version 3).
    Files {
        /// The path: a file, or a folder with its contents. Nothing else is accessible.
        path: String,
        /// Whether they may be modified.
        write: bool,
    },
}

/// Opens a channel; signed by the operation key, kind `open`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOpen {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The device's epoch.
    pub epoch: Epoch,
    /// The channel. It is opened once, even if the message is repeated.
    pub channel: ChannelId,
    /// When it was signed, by the server's clock.
    pub issued_at: Timestamp,
    /// The expiry, by the server's clock.
    pub expires_at: Timestamp,
    /// The actor: `token:<id>`.
    pub actor: String,
    /// The server's X25519 key for this channel.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// The purpose.
    pub purpose: Purpose,
}

/// The response to a [`ChannelOpen`]; signed by the device's signing key, kind `opened`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAnswer {
    /// The channel.
    pub channel: ChannelId,
    /// SHA-256 of the signed open.
    pub open: Hash,
    /// The device's X25519 key for this channel; empty if it refuses.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// The reason of a refusal.
    #[serde(default)]
    pub refused: Option<ChannelRefusal>,
    /// Whether the device supports what the first agents did not: messages of more than 32 KiB,
    /// compressed data, and a window that grows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wide: bool,
}

/// Why a device refuses a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRefusal {
    /// The kind.
    pub cause: ChannelRefusalCause,
    /// The reason, as text.
    pub reason: String,
}

/// Maximum number of channels that are open on a device at the same time. The device's subscriptions
/// at the broker allow for all of them.
pub const MAX_DEVICE_CHANNELS: usize = 128;

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelRefusalCause {
    /// The policy file on the device forbids it.
    Policy,
    /// It is invalid: no such user, no such session.
    Invalid,
    /// The limit of channels or sessions is reached.
    Busy,
    /// It failed: a connection was refused, a shell could not be started.
    Failed,
    /// This agent does not support it.
    Unsupported,
}
