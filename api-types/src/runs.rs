//! Runs: the parts of an operation, one for each device.

use muster_schemas::events::{self, RefusalCause};
use muster_schemas::{Hash, OperationId, RunState, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::DeviceRef;
use crate::{Open, schema};

/// What a program wrote to one of its output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputSummary {
    /// Number of bytes that were written.
    pub size_bytes: u64,
    /// Number of bytes that are stored: the first ones.
    pub stored_bytes: u64,
    /// SHA-256 of a salt, which is stored with the output, and the stored bytes; null when nothing
    /// is stored.
    #[schema(value_type = Option<schema::Hash>)]
    pub hash: Option<Hash>,
}

impl From<events::OutputSummary> for OutputSummary {
    fn from(output: events::OutputSummary) -> Self {
        let events::OutputSummary { bytes, kept, hash } = output;
        Self { size_bytes: bytes, stored_bytes: kept, hash }
    }
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// The operation.
    #[schema(value_type = schema::OperationId)]
    pub operation: OperationId,
    /// The device.
    pub device: DeviceRef,
    /// Status of the run.
    #[schema(value_type = schema::RunStatus)]
    pub status: Open<RunState>,
    /// Explanation of the status, and the possible actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// Time of the request.
    #[schema(value_type = schema::Timestamp)]
    pub requested_at: Timestamp,
    /// Time at which its newest order was signed.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub dispatched_at: Option<Timestamp>,
    /// Time at which the device accepted it, by the device's clock.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub accepted_at: Option<Timestamp>,
    /// Time at which its program started, by the device's clock.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub started_at: Option<Timestamp>,
    /// Time at which its end was recorded in the log.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub ended_at: Option<Timestamp>,
    /// Time at which its cancellation was requested.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub cancel_requested_at: Option<Timestamp>,
    /// Process id.
    pub pid: Option<u32>,
    /// User that the program runs as.
    pub user: Option<String>,
    /// Exit code, when the program exited by itself.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Reason for which it did not succeed.
    pub reason: Option<String>,
    /// Cause for which the device rejected it.
    #[schema(value_type = Option<schema::RefusalCause>)]
    pub refusal_cause: Option<Open<RefusalCause>>,
    /// Duration of its program by the device's clock, in seconds.
    pub duration_seconds: Option<f64>,
    /// CPU time in user mode, in seconds.
    pub cpu_user_seconds: Option<f64>,
    /// CPU time in the kernel, in seconds.
    pub cpu_system_seconds: Option<f64>,
    /// Peak memory of one of its processes, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Standard output.
    pub stdout: Option<OutputSummary>,
    /// Standard error, likewise.
    pub stderr: Option<OutputSummary>,
    /// Whether the device's report arrived after the server had stopped waiting for it.
    pub late: bool,
    /// Version of its stream, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}
