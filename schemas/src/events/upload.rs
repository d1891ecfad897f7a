//! Events of uploaded files: stored, shared, erased.
//!
//! All of them are in the stream of the run that uploaded the file, `run/<operation>/<device>`.

use serde::{Deserialize, Serialize};

use crate::cose::Hash;
use crate::timestamp::Timestamp;

/// Why a stored file was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseCause {
    /// An operator deleted it.
    Asked,
    /// Its retention expired.
    Kept,
    /// A later upload of the same path was stored.
    Replaced,
}

/// A stored file was erased, or an incomplete one is no longer accepted. Stream
/// `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadErased {
    /// Why.
    pub cause: EraseCause,
}

/// The server cannot store a file that a device sends; the device retries. Recorded once for each
/// offset at which it stalls. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadStalled {
    /// The number of bytes that the server has.
    pub bytes: u64,
    /// The reason, as text.
    pub reason: String,
}

/// A download link for a file was created, valid until it expires. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadLinkMade {
    /// SHA-256 of the link's secret.
    pub secret: Hash,
    /// When it expires.
    pub expires_at: Timestamp,
}
