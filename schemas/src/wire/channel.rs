//! Channels: sealed streams of bytes between a server and an agent.
//!
//! The server opens one by a [`ChannelOpen`] on `.cmd` (kind `open`); the device answers with a
//! [`ChannelAnswer`] (kind `opened`), which is the first message on `.ch.<channel>.up`. Both hold an
//! X25519 key made for this channel alone. What follows on `.up` and `.down` is ciphertext.

use serde::{Deserialize, Serialize};

use crate::cose::Hash;
use crate::ids::{ChannelId, DeviceId, ProjectId, SessionId};
use crate::timestamp::Timestamp;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// What a file that is being written is called until it is whole: its name, and this.
pub const FILE_PART_SUFFIX: &str = ".muster-part";
/// The most bytes of one read or write of files.
pub const MAX_SFTP_IO_BYTES: u32 = 128 * 1024;
/// The most bytes of a file that are hashed by one request.
pub const MAX_SFTP_HASH_BYTES: u64 = 64 << 20;
/// The name of an extension of SFTP: the SHA-256 of a part of an open file. Asked with the handle
/// (a string), an offset and a length (each eight bytes, big-endian); answered with how many bytes
/// there are of it (the same) and the 32 bytes of the hash.
pub const SFTP_SHA256: &str = "muster-sha256";

/// What a channel is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Purpose {
    /// A new shell session, and this channel attached to it.
    Shell {
        /// The session's id.
        session: SessionId,
        /// The user that the shell runs as; the agent's own when absent.
        #[serde(default)]
        user: Option<String>,
        /// A line for the shell, in place of an interactive one.
        #[serde(default)]
        command: Option<String>,
        /// The terminal's name, for `TERM`.
        term: String,
        /// The terminal's size.
        size: TerminalSize,
        /// How long the session stays when nobody is attached, in seconds.
        grace_seconds: u32,
    },
    /// A session that is there already.
    Attach {
        /// The session's id.
        session: SessionId,
        /// Look on: no input, no resizing.
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
        /// The host, as the device knows it.
        host: String,
        /// The port.
        port: u16,
    },
    /// Files of the device, by SFTP (version 3).
    Files {
        /// What it is about: a file, or a folder with all that is in it. Nothing else is reached.
        path: String,
        /// Are they to be changed?
        write: bool,
    },
}

/// Open a channel; sealed by the operation key, kind `open`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOpen {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch that the device is in.
    pub epoch: u64,
    /// The channel. Opened once, whatever comes again.
    pub channel: ChannelId,
    /// When it was signed, by the server's clock.
    pub issued_at: Timestamp,
    /// Not to be opened after this, by the server's clock.
    pub expires_at: Timestamp,
    /// Who asked: `token:<id>`.
    pub actor: String,
    /// The server's X25519 key for this channel.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// What it is for.
    pub purpose: Purpose,
}

/// The answer to a [`ChannelOpen`]; sealed by the device's signing key, kind `opened`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAnswer {
    /// The channel.
    pub channel: ChannelId,
    /// SHA-256 of the sealed open that this answers.
    pub open: Hash,
    /// The device's X25519 key for this channel; empty when it refuses.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Why it refuses.
    #[serde(default)]
    pub refused: Option<ChannelRefusal>,
    /// Does the device take what the first agents did not: messages of more than 32 KiB, packed data,
    /// and a window that grows?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wide: bool,
}

/// Why a device does not open a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRefusal {
    /// Of which kind.
    pub cause: ChannelRefusalCause,
    /// In words.
    pub reason: String,
}

/// Maximum number of channels that are open on a device at the same time. The device's subscriptions
/// at the broker allow for all of them.
pub const MAX_DEVICE_CHANNELS: usize = 128;

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelRefusalCause {
    /// The policy file on the device forbids it.
    Policy,
    /// It cannot be done as asked: no such user, no such session.
    Invalid,
    /// As many channels or sessions are open as the device takes.
    Busy,
    /// It was tried and did not work: a connection was refused, a shell could not be started.
    Failed,
    /// This agent does not know how to do it.
    Unsupported,
}
