//! Uploads: files that were pulled from devices, and links to them.

use muster_schemas::events::EraseCause;
use muster_schemas::{OperationId, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::DeviceRef;
use crate::{Open, WriteResult, schema};

/// Status of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadStatus {
    /// The upload waits for a slot or for its device.
    Waiting,
    /// The device sends the file.
    Sending,
    /// The server has the whole file.
    Stored,
    /// The stored copy was erased.
    Erased,
    /// The upload failed, and will not be retried.
    Failed,
    /// The upload exceeded its timeout.
    TimedOut,
    /// An operator canceled the upload.
    Canceled,
    /// The upload was not started in time.
    Expired,
    /// The device rejected the upload.
    Rejected,
    /// The result is unknown.
    Unknown,
}

impl UploadStatus {
    /// All statuses.
    pub const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Sending,
        Self::Stored,
        Self::Erased,
        Self::Failed,
        Self::TimedOut,
        Self::Canceled,
        Self::Expired,
        Self::Rejected,
        Self::Unknown,
    ];

    /// Returns its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Stored => "stored",
            Self::Erased => "erased",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the status with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Returns all names.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// What an upload contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadContent {
    /// A file.
    File,
    /// A folder: a tar archive, compressed with gzip.
    Folder,
}

/// A file that was requested from a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Operation that requested it.
    #[schema(value_type = schema::OperationId)]
    pub operation: OperationId,
    /// The device.
    pub device: DeviceRef,
    /// Status of the upload.
    #[schema(value_type = UploadStatus)]
    pub status: Open<UploadStatus>,
    /// Explanation of the status, and the possible actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// Path on the device.
    pub path: String,
    /// Name of the stored file.
    pub file_name: Option<String>,
    /// Whether it is a file, or the archive of a folder; null before the device has started.
    #[schema(value_type = Option<UploadContent>)]
    pub content: Option<Open<UploadContent>>,
    /// Size in bytes; null before the device has started.
    pub size_bytes: Option<u64>,
    /// Number of bytes that the server has.
    pub received_bytes: u64,
    /// The actor that requested it.
    pub created_by: String,
    /// Time of the request.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Time at which the device started, by its clock.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub started_at: Option<Timestamp>,
    /// Time at which the server had the whole file.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub stored_at: Option<Timestamp>,
    /// Time at which it is erased automatically.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub expires_at: Option<Timestamp>,
    /// Time at which it was erased.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub erased_at: Option<Timestamp>,
    /// Cause for which it was erased.
    #[schema(value_type = Option<schema::EraseCause>)]
    pub erase_cause: Option<Open<EraseCause>>,
    /// The current obstacle, or the cause of the failure.
    pub problem: Option<String>,
    /// Whether the device removes the file once the server has it.
    pub remove_source: bool,
    /// Whether it replaces the stored files of the same path.
    pub replace: bool,
    /// Maximum size of the file, in bytes.
    pub max_bytes: u64,
    /// Maximum transfer rate, in bytes per second.
    pub max_bytes_per_second: Option<u64>,
    /// Version of its run's stream, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}

/// A request to create a download link.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"expires_in_seconds": 3600}))]
pub struct CreateDownloadLink {
    /// Lifetime of the link, in seconds.
    #[schema(minimum = 1, maximum = 604_800)]
    pub expires_in_seconds: u32,
}

/// A created download link.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "url": "/api/v1/downloads/msd_default_0198c0de70027abc8def0123456789ab_0198c0de70007abc8def0123456789ab_…",
    "expires_at": "2026-11-26T09:00:00Z", "version": 3, "position": 42
}))]
pub struct DownloadLink {
    /// Path of the link, relative to this server's address. It cannot be shown again.
    pub url: String,
    /// Time at which the link expires.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub result: WriteResult,
}
