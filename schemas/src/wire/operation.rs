//! Messages of operations: orders to devices, and output of programs.
//!
//! Orders are sent on `.cmd` with the header [`KIND_HEADER`], signed by the project's operation key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::{self, unique_map};
use crate::cose::Hash;
use crate::events::{Action, PrivatePart};
use crate::ids::{DeviceId, OperationId, ProjectId};
use crate::numbers::Epoch;
use crate::timestamp::Timestamp;

/// The header of a message on `.cmd` that names the kind of its body: `run`, `cancel`, `open`; a
/// message without it is of kind `config`.
pub const KIND_HEADER: &str = "Muster-Kind";

/// The header by which a device recognizes the confirmation of a message: the broker copies it from
/// the message into the confirmation. The device chooses its value.
pub const MESSAGE_ID_HEADER: &str = "Muster-Message-Id";

/// Maximum size of the private part, in bytes.
pub const MAX_PRIVATE_BYTES: usize = 384 * 1024;
/// Maximum stored size of each of a program's two outputs, in bytes.
pub const MAX_OUTPUT_BYTES: u64 = 4 << 20;
/// Maximum size of the output in one message, before compression, in bytes.
pub const MAX_PIECE_BYTES: usize = 128 * 1024;

/// Maximum size of a part of a file in one message, before compression, in bytes: with its envelope
/// it is below a device's largest message (512 KiB).
pub const MAX_FILE_PIECE_BYTES: usize = 384 * 1024;
/// Maximum size that an upload can allow: 64 GiB.
pub const MAX_UPLOAD_BYTES: u64 = 64 << 30;

/// An order to run an action; signed by the operation key, kind `run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOrder {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The device's epoch.
    pub epoch: Epoch,
    /// The operation. A device executes an operation once, independently of the other fields.
    pub operation: OperationId,
    /// When it was signed, by the server's clock.
    pub issued_at: Timestamp,
    /// The expiry: not to be started later, by the server's clock.
    pub expires_at: Timestamp,
    /// The timeout, in milliseconds.
    pub timeout_ms: u64,
    /// The actor: `token:<id>`.
    pub actor: String,
    /// The action.
    pub action: Action,
    /// The private part.
    #[serde(default)]
    pub private: Option<PrivatePart>,
}

/// A message of kind `run` on `.cmd`: the signed order, and the private part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDelivery {
    /// COSE_Sign1 of kind `run` over a [`RunOrder`].
    #[serde(with = "serde_bytes")]
    pub order: Vec<u8>,
    /// An encoded [`PrivateInput`] in clear: from servers before 0.2. Its SHA-256 is in the order.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub private: Option<Vec<u8>>,
    /// The same, sealed to the device's signing key in the context [`input_context`].
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Vec<u8>>,
}

/// The context of a sealed [`PrivateInput`].
#[must_use]
pub fn input_context(project: &ProjectId, device: DeviceId, operation: OperationId) -> Vec<u8> {
    codec::encode(&("muster/run-input/v1", project, device, operation))
}

/// The context of a sealed [`OutputPiece`].
#[must_use]
pub fn output_context(project: &ProjectId, device: DeviceId, piece: &OutputPiece) -> Vec<u8> {
    let OutputPiece { operation, stream, offset, bytes, compressed, last, salt, total, .. } = piece;
    let salt = salt.as_deref().map(serde_bytes::Bytes::new);
    let location = (operation, stream, offset, bytes, compressed, last, salt, total);
    codec::encode(&("muster/run-output/v1", project, device, location))
}

/// The private part of an order. CBOR.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateInput {
    /// Random, so that the hash reveals nothing that can be guessed.
    #[serde(with = "serde_bytes")]
    pub salt: Vec<u8>,
    /// Environment variables.
    #[serde(deserialize_with = "unique_map", default)]
    pub env: BTreeMap<String, String>,
    /// Standard input; closed immediately when empty.
    #[serde(with = "serde_bytes", default)]
    pub stdin: Vec<u8>,
}

impl std::fmt::Debug for PrivateInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateInput")
            .field("env", &self.env.keys())
            .field("stdin_bytes", &self.stdin.len())
            .finish_non_exhaustive()
    }
}

/// An order to cancel a run; signed by the operation key, kind `cancel`. An unknown run never starts:
/// the device writes that to its journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelOrder {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The device's epoch.
    pub epoch: Epoch,
    /// The operation.
    pub operation: OperationId,
    /// When it was signed, by the server's clock.
    pub issued_at: Timestamp,
}

/// An output of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The file of an upload.
    File,
}

impl OutputStream {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::File => "file",
        }
    }
}

/// A piece of a program's output, or of a file: a request on `.req.output`, with the response
/// [`OutputTaken`]. Not signed: the run's signed end has the hash of all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPiece {
    /// The operation.
    pub operation: OperationId,
    /// The output.
    pub stream: OutputStream,
    /// The offset of the piece.
    pub offset: u64,
    /// The size of the piece.
    pub bytes: u32,
    /// The bytes, compressed by zlib if that is smaller, then sealed.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// Whether `data` is sealed to the project's operation key in the context [`output_context`].
    /// Agents before 0.2 send it in clear.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Whether `data` is compressed.
    #[serde(default)]
    pub compressed: bool,
    /// Whether this is the last piece. For a file, the last piece is an empty one at its end: its
    /// response confirms that the server has stored the file.
    #[serde(default)]
    pub last: bool,
    /// With the first piece: the salt of the output's hash, 16 bytes.
    #[serde(default, with = "serde_bytes")]
    pub salt: Option<Vec<u8>>,
    /// The size of the whole file; absent for other outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How much of an output the server has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTaken {
    /// The next offset to send.
    pub next: u64,
    /// For output beyond [`MAX_OUTPUT_BYTES`], which is not stored: whether a client follows it. If
    /// none does, the device drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<bool>,
    /// Why no more of the file is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// For the last piece of a file: COSE_Sign1 of kind `stored` over a [`FileStored`]. Without it a
    /// device does not consider its file stored, and does not remove it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub receipt: Option<Vec<u8>>,
}

/// A receipt: the server has all of a file on disk; signed by the operation key, kind `stored`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStored {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The operation that requested it.
    pub operation: OperationId,
    /// The size of the file.
    pub bytes: u64,
}

/// The salted hash of an output.
#[must_use]
pub fn output_hash(salt: &[u8], kept: &[u8]) -> Hash {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    hasher.update(salt);
    hasher.update(kept);
    Hash(hasher.finalize().into())
}
