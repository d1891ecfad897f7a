//! Runs: the parts of an operation, one for each device.

use muster_schemas::events::{OutputSummary, RefusalCause};
use muster_schemas::{DeviceId, OperationId, RunState, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Open, schema};

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// The operation.
    #[schema(value_type = schema::OperationId)]
    pub operation: OperationId,
    /// The device.
    #[schema(value_type = schema::DeviceId)]
    pub device: DeviceId,
    /// The device's name.
    #[schema(value_type = Option<schema::DeviceName>)]
    pub name: Option<String>,
    /// State of the run.
    #[schema(value_type = schema::RunState)]
    pub state: Open<RunState>,
    /// Explanation of the state, and the possible actions.
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
    pub refused: Option<Open<RefusalCause>>,
    /// Duration of its program, by the device's clock.
    pub duration_ms: Option<u64>,
    /// CPU time in user mode.
    pub user_us: Option<u64>,
    /// CPU time in the kernel.
    pub system_us: Option<u64>,
    /// Peak memory of one of its processes, in bytes.
    pub peak_memory: Option<u64>,
    /// Standard output: the number of bytes that were written, and of those that are kept.
    #[schema(value_type = Option<schema::OutputSummary>)]
    pub stdout: Option<OutputSummary>,
    /// Standard error, likewise.
    #[schema(value_type = Option<schema::OutputSummary>)]
    pub stderr: Option<OutputSummary>,
    /// Whether the device's report arrived after the server had stopped waiting for it.
    pub late: bool,
    /// Version of its stream, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}
