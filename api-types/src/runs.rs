//! Runs: the parts of an operation, one for each device.

use muster_schemas::events::{OutputSummary, RefusalCause};
use muster_schemas::{DeviceId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Open, schema};

/// State of a run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The run waits for a slot or for its device.
    #[default]
    Requested,
    /// The order is sent repeatedly until the device responds.
    Dispatched,
    /// The order is in the device's journal.
    Accepted,
    /// Its program runs.
    Running,
    /// The run succeeded.
    Succeeded,
    /// Its program failed, or could not be started.
    Failed,
    /// The run exceeded its timeout.
    TimedOut,
    /// An operator canceled the run.
    Canceled,
    /// The run was not started in time.
    Expired,
    /// The device rejected the run.
    Rejected,
    /// The result is unknown.
    Unknown,
}

impl RunState {
    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Requested,
        Self::Dispatched,
        Self::Accepted,
        Self::Running,
        Self::Succeeded,
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
            Self::Requested => "requested",
            Self::Dispatched => "dispatched",
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the run has ended.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Requested | Self::Dispatched | Self::Accepted | Self::Running)
    }
}

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
    #[schema(value_type = RunState)]
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
    pub version: u64,
}
