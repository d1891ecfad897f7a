//! What is said on a channel: a byte that names the frame, then its content.

use bytes::Bytes;
use muster_schemas::codec;
use muster_schemas::wire::TerminalSize;
use serde::{Deserialize, Serialize};

use crate::CHUNK;
use crate::pack::{Packer, unpack};
use crate::seal::OVERHEAD;

/// The most bytes of a frame that is not data.
const MOST: usize = 256 * 1024;

/// Data as it is.
const DATA: u8 = 0;
/// Data that was packed.
const PACKED: u8 = 10;

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the stream; they use up credit.
    Data(Bytes),
    /// So many bytes were taken: as many more may come.
    Credit(u32),
    /// No more bytes come from this side.
    Eof,
    /// This side is through with the channel; why, in words.
    Close(String),
    /// This side lives, and has heard all messages before this one.
    Heard(u64),
    /// This side misses this message and all that came after it.
    Again(u64),
    /// The terminal has another size.
    Resize(TerminalSize),
    /// The program behind the channel has ended.
    Exit(Exit),
    /// What makes an empty terminal look like that of the session; uses up no credit.
    Screen(Bytes),
    /// How many are attached to the session.
    Attached(Attached),
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it, or what else is known.
    pub reason: Option<String>,
}

/// Who is attached to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Those that may type.
    pub shared: u32,
    /// Those that look on.
    pub watching: u32,
}

/// Not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of a channel: {0}")]
pub struct FrameError(&'static str);

impl Frame {
    /// Does it only say which messages were heard?
    pub(crate) const fn is_about_messages(&self) -> bool {
        matches!(self, Self::Heard(_) | Self::Again(_))
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
            Self::Heard(next) => with(4, &next.to_be_bytes()),
            Self::Again(next) => with(9, &next.to_be_bytes()),
            Self::Resize(size) => with(5, &codec::encode(size)),
            Self::Exit(exit) => with(6, &codec::encode(exit)),
            Self::Screen(bytes) => with(7, bytes),
            Self::Attached(attached) => with(8, &codec::encode(attached)),
        }
    }

    /// Writes what [`Self::encode`] answers, with data packed where that is worth it.
    pub(crate) fn write(&self, packer: Option<&mut Packer>, to: &mut Vec<u8>) {
        let mut put = |kind: &[u8], content: &[u8]| {
            to.reserve(kind.len() + content.len() + OVERHEAD);
            to.extend_from_slice(kind);
            to.extend_from_slice(content);
        };
        match self {
            Self::Data(bytes) => match packer.and_then(|packer| packer.pack(bytes)) {
                Some(packed) => put(&[PACKED], &packed),
                None => put(&[DATA], bytes),
            },
            other => put(&[], &other.encode()),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        fn read<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T, FrameError> {
            codec::decode(content).map_err(|_| FrameError("its content cannot be read"))
        }
        fn counter(content: &[u8]) -> Result<u64, FrameError> {
            let bytes = content.try_into().map_err(|_| FrameError("a counter is 8 bytes"))?;
            Ok(u64::from_be_bytes(bytes))
        }
        let (kind, content) = bytes.split_first().ok_or(FrameError("it is empty"))?;
        if content.len() > MOST {
            return Err(FrameError("it is too large"));
        }
        Ok(match *kind {
            DATA if (1..=CHUNK).contains(&content.len()) => Self::Data(bytes.slice_ref(content)),
            PACKED => Self::Data(unpack(content).ok_or(FrameError("its data cannot be unpacked"))?),
            1 => {
                let count = content.try_into().map_err(|_| FrameError("a credit is 4 bytes"))?;
                Self::Credit(u32::from_be_bytes(count))
            }
            2 if content.is_empty() => Self::Eof,
            3 => Self::Close(String::from_utf8_lossy(content).chars().take(500).collect()),
            4 => Self::Heard(counter(content)?),
            9 => Self::Again(counter(content)?),
            5 => Self::Resize(read(content)?),
            6 => Self::Exit(read(content)?),
            7 => Self::Screen(bytes.slice_ref(content)),
            8 => Self::Attached(read(content)?),
            _ => return Err(FrameError("its kind is not known")),
        })
    }
}
