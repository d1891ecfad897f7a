//! What becomes of the files that devices have sent: kept, handed out, erased.
//!
//! All of it stands in the stream of the run that brought the file, `run/<operation>/<device>`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cose::Hash;
use crate::timestamp::Timestamp;

/// Why a stored file was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EraseCause {
    /// Somebody asked for it.
    Asked,
    /// It was kept for as long as was asked.
    Kept,
    /// A later upload of the same path was stored.
    Replaced,
}

/// A file is not kept any more, or, when it is not here yet, not taken. Stream
/// `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadErased {
    /// Why.
    pub cause: EraseCause,
}

/// The server cannot keep what a device sends; the device tries again until it can. Recorded once
/// for each place where it stops. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadStalled {
    /// How many bytes the server has.
    pub bytes: u64,
    /// Why, in words.
    pub reason: String,
}

/// Whoever has the link may download the file until it expires. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DownloadLinkMade {
    /// SHA-256 of the link's secret.
    pub secret: Hash,
    /// When it expires.
    pub expires_at: Timestamp,
}
