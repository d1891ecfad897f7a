//! Frames of a channel: one byte for the type, then the content.

use bytes::Bytes;
use muster_schemas::codec;
use muster_schemas::wire::TerminalSize;
use serde::{Deserialize, Serialize};

use crate::MAX_CHUNK_BYTES;
use crate::pack::{Packer, unpack};
use crate::seal::OVERHEAD;

/// Maximum size of a frame other than data, in bytes.
const MAX_CONTROL_FRAME_BYTES: usize = 256 * 1024;

/// Type of uncompressed data.
const DATA: u8 = 0;
/// Type of compressed data.
const COMPRESSED_DATA: u8 = 10;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the stream; they consume credit.
    Data(Bytes),
    /// Number of bytes that were consumed, which may be sent in addition.
    Credit(u32),
    /// No more bytes from this side.
    Eof,
    /// This side has closed the channel; the reason, as text.
    Close(String),
    /// Keep-alive: this side has received all messages before this one.
    Received(u64),
    /// This side misses this message and all later ones.
    Retransmit(u64),
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// The program behind the channel has ended.
    Exit(Exit),
    /// Bytes that bring an empty terminal to the session's state; they consume no credit.
    Screen(Bytes),
    /// Number of clients that are attached to the session.
    Attached(Attached),
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, or another reason.
    pub reason: Option<String>,
}

/// Clients that are attached to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Clients that may type.
    pub shared: u32,
    /// Clients that only watch.
    pub watching: u32,
}

/// The bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of a channel: {0}")]
pub struct FrameError(&'static str);

impl Frame {
    /// Whether it only acknowledges or requests messages.
    pub(crate) const fn is_delivery_control(&self) -> bool {
        matches!(self, Self::Received(_) | Self::Retransmit(_))
    }

    /// The bytes that are sealed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let with = |kind: u8, content: &[u8]| {
            let mut bytes = Vec::with_capacity(1 + content.len());
            bytes.push(kind);
            bytes.extend_from_slice(content);
            bytes
        };
        match self {
            Self::Data(bytes) => with(DATA, bytes),
            Self::Credit(count) => with(1, &count.to_be_bytes()),
            Self::Eof => vec![2],
            Self::Close(reason) => with(3, reason.as_bytes()),
            Self::Received(next) => with(4, &next.to_be_bytes()),
            Self::Retransmit(next) => with(9, &next.to_be_bytes()),
            Self::Resize(size) => with(5, &codec::encode(size)),
            Self::Exit(exit) => with(6, &codec::encode(exit)),
            Self::Screen(bytes) => with(7, bytes),
            Self::Attached(attached) => with(8, &codec::encode(attached)),
        }
    }

    /// Writes the bytes of [`Self::encode`], with data compressed if that is smaller.
    pub(crate) fn write(&self, packer: Option<&mut Packer>, to: &mut Vec<u8>) {
        let mut put = |kind: &[u8], content: &[u8]| {
            to.reserve(kind.len() + content.len() + OVERHEAD);
            to.extend_from_slice(kind);
            to.extend_from_slice(content);
        };
        match self {
            Self::Data(bytes) => match packer.and_then(|packer| packer.pack(bytes)) {
                Some(packed) => put(&[COMPRESSED_DATA], &packed),
                None => put(&[DATA], bytes),
            },
            other => put(&[], &other.encode()),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// When the bytes are not a frame.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        fn read<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T, FrameError> {
            codec::decode(content).map_err(|_| FrameError("its content is invalid"))
        }
        fn counter(content: &[u8]) -> Result<u64, FrameError> {
            let bytes = content.try_into().map_err(|_| FrameError("a counter is 8 bytes"))?;
            Ok(u64::from_be_bytes(bytes))
        }
        let (kind, content) = bytes.split_first().ok_or(FrameError("it is empty"))?;
        if content.len() > MAX_CONTROL_FRAME_BYTES {
            return Err(FrameError("it is too large"));
        }
        Ok(match *kind {
            DATA if (1..=MAX_CHUNK_BYTES).contains(&content.len()) => {
                Self::Data(bytes.slice_ref(content))
            }
            COMPRESSED_DATA => {
                Self::Data(unpack(content).ok_or(FrameError("its data cannot be decompressed"))?)
            }
            1 => {
                let count = content.try_into().map_err(|_| FrameError("a credit is 4 bytes"))?;
                Self::Credit(u32::from_be_bytes(count))
            }
            2 if content.is_empty() => Self::Eof,
            3 => Self::Close(String::from_utf8_lossy(content).chars().take(500).collect()),
            4 => Self::Received(counter(content)?),
            9 => Self::Retransmit(counter(content)?),
            5 => Self::Resize(read(content)?),
            6 => Self::Exit(read(content)?),
            7 => Self::Screen(bytes.slice_ref(content)),
            8 => Self::Attached(read(content)?),
            _ => return Err(FrameError("its kind is unknown")),
        })
    }
}
