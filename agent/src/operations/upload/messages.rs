//! Messages between the agent and the helper that reads the source.

use std::path::PathBuf;

use muster_schemas::OperationId;
use muster_schemas::events::{RefusalCause, Upload};
use muster_schemas::wire::OutputPiece;
use serde::{Deserialize, Serialize};

use crate::operations::sent_file::Sent;
use crate::subprocess::path_bytes;

/// The job of a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UploadJob {
    #[serde(with = "path_bytes")]
    pub(super) policy: PathBuf,
    pub(super) upload: Upload,
    /// Path of the archive of a folder.
    #[serde(with = "path_bytes")]
    pub(super) archive: PathBuf,
    /// Path on the disk whose free space limits the archive.
    #[serde(with = "path_bytes")]
    pub(super) disk: PathBuf,
}

/// A request of the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Examine,
    Open { sent: Option<Sent> },
    Pack(Piece),
    Hash,
    Remove { sent: Sent },
}

/// A reply of the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The helper works at this path; the next message follows within this number of seconds.
    Progress {
        path: String,
        seconds: u32,
    },
    Done(Value),
    Refused {
        cause: Option<RefusalCause>,
        reason: String,
    },
}

/// Value of a reply.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Value {
    Nothing,
    Sent(Sent),
    Packed(Packed),
    Hash([u8; 32]),
}

/// The next piece to send.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) id: OperationId,
    pub(super) salt: [u8; 16],
    pub(super) at: u64,
    pub(super) length: usize,
    /// Whether the request only queries the server's offset.
    pub(super) is_asking: bool,
    pub(super) compresses: bool,
}

/// A piece, ready to be sealed and sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Packed {
    pub(super) bytes: u64,
    pub(super) piece: OutputPiece,
    pub(super) is_smaller: bool,
}
