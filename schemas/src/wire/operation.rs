//! What is sent about operations: orders to devices, and the output of programs back.
//!
//! Orders come on `.cmd` with the header [`KIND_HEADER`], sealed by the project's operation key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::{self, unique_map};
use crate::cose::Hash;
use crate::events::{Action, PrivatePart};
use crate::ids::{DeviceId, OperationId, ProjectId};
use crate::timestamp::Timestamp;

/// The header of a message on `.cmd` that names the sealing kind of its body: `run`, `cancel`,
/// `open`; a message without it is of kind `config`.
pub const KIND_HEADER: &str = "Muster-Kind";

/// The header by which a device recognizes the confirmation of a message: the broker copies it from
/// the message into the confirmation. The value is the device's choice.
pub const MESSAGE_ID_HEADER: &str = "Muster-Message-Id";

/// The largest private part, in bytes.
pub const MAX_PRIVATE_BYTES: usize = 384 * 1024;
/// The most bytes that are kept of each of a program's two outputs.
pub const MAX_OUTPUT_BYTES: u64 = 4 << 20;
/// The most bytes of output in one message, before they are compressed.
pub const MAX_PIECE_BYTES: usize = 128 * 1024;

/// The most bytes of a file in one message, before they are compressed: with what is around them, no
/// more than a device may say at once (512 KiB).
pub const MAX_FILE_PIECE_BYTES: usize = 384 * 1024;
/// The most bytes of an upload that does not say how many may be taken: 1 GiB.
pub const USUAL_UPLOAD_BYTES: u64 = 1 << 30;
/// The most bytes that an upload may be allowed to be: 64 GiB.
pub const MAX_UPLOAD_BYTES: u64 = 64 << 30;

/// Do this; sealed by the operation key, kind `run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOrder {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch that the device is in.
    pub epoch: u64,
    /// The operation. A device does each operation once, whatever else the order says.
    pub operation: OperationId,
    /// When it was signed, by the server's clock.
    pub issued_at: Timestamp,
    /// Not to be begun after this, by the server's clock.
    pub expires_at: Timestamp,
    /// To be ended after this long, in milliseconds.
    pub timeout_ms: u64,
    /// Who asked: `token:<id>`.
    pub actor: String,
    /// What to do.
    pub action: Action,
    /// The private part that belongs to it.
    #[serde(default)]
    pub private: Option<PrivatePart>,
}

/// A message of kind `run` on `.cmd`: the sealed order, and beside it what is private.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDelivery {
    /// COSE_Sign1 of kind `run` over a [`RunOrder`].
    #[serde(with = "serde_bytes")]
    pub order: Vec<u8>,
    /// A [`PrivateInput`], encoded, in clear: from servers before 0.2. Its SHA-256 stands in the order.
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
    let place = (operation, stream, offset, bytes, compressed, last, salt, total);
    codec::encode(&("muster/run-output/v1", project, device, place))
}

/// What only the device shall see of an order. CBOR.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateInput {
    /// Random, so that the hash tells nothing of what can be guessed.
    #[serde(with = "serde_bytes")]
    pub salt: Vec<u8>,
    /// Environment variables.
    #[serde(deserialize_with = "unique_map", default)]
    pub env: BTreeMap<String, String>,
    /// Standard input; closed at once when empty.
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

/// End a run; sealed by the operation key, kind `cancel`. A run that is not known here will never
/// start: the device writes that into its journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelOrder {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch that the device is in.
    pub epoch: u64,
    /// The operation.
    pub operation: OperationId,
    /// When it was signed, by the server's clock.
    pub issued_at: Timestamp,
}

/// Which of a program's outputs.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
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

/// A piece of a program's output, or of a file: a request on `.req.output`, answered by
/// [`OutputTaken`]. Not signed: the run's signed end holds the hash of all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPiece {
    /// The operation.
    pub operation: OperationId,
    /// Which output.
    pub stream: OutputStream,
    /// Where in the output the piece begins.
    pub offset: u64,
    /// How many bytes it is.
    pub bytes: u32,
    /// The bytes, compressed by zlib where that makes them fewer, then sealed.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// True when `data` is sealed to the project's operation key in the context [`output_context`].
    /// Agents before 0.2 send it in clear.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// True when `data` is compressed.
    #[serde(default)]
    pub compressed: bool,
    /// Nothing comes after this piece. Of a file, the last piece is an empty one at its end: its
    /// answer says that all of it is kept safe.
    #[serde(default)]
    pub last: bool,
    /// With the first piece: the salt of the output's hash, 16 bytes.
    #[serde(default, with = "serde_bytes")]
    pub salt: Option<Vec<u8>>,
    /// How many bytes the whole file is; not of other outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How much of an output the server has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTaken {
    /// Send from here on.
    pub next: u64,
    /// To output beyond [`MAX_OUTPUT_BYTES`], which is not kept: whether anyone reads it. When nobody
    /// does, the device drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<bool>,
    /// Why no more of the file is taken, whatever is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// To the last piece of a file: COSE_Sign1 of kind `stored` over a [`FileStored`]. Without it a
    /// device believes nobody that its file is safe, and removes none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub receipt: Option<Vec<u8>>,
}

/// The server has all of a file, safe from a power failure; sealed by the operation key, kind
/// `stored`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStored {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The operation that asked for it.
    pub operation: OperationId,
    /// How many bytes it is.
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
