//! Operations and runs in responses of the API.

use std::collections::BTreeMap;

use muster_schemas::events::{AbortCause, Action, OutputSummary, RefusalCause};
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, OperationId, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::projections::operations::{Operation, Run, RunState};

/// Status of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OperationStatus {
    /// Runs are in progress or pending.
    Running,
    /// No further run starts until the operation is resumed.
    Paused,
    /// No further run starts, and some started runs have not ended.
    Aborting,
    /// The operation was aborted, and all of its runs have ended.
    Aborted,
    /// All of its runs have ended.
    Finished,
}

/// An operation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OperationView {
    /// Id of the operation.
    pub(super) id: OperationId,
    /// Status of the operation.
    pub(super) status: OperationStatus,
    /// Action of each run.
    pub(super) action: Action,
    /// Target as written in the request.
    pub(super) target: String,
    /// Number of devices that the target selected.
    pub(super) devices: u64,
    /// The actor that requested it.
    pub(super) actor: String,
    /// Time of the request.
    pub(super) requested_at: Timestamp,
    /// Maximum duration of a run, in milliseconds.
    pub(super) timeout_ms: u64,
    /// Time at which runs that have not started expire.
    pub(super) expires_at: Timestamp,
    /// Maximum number of devices that run it concurrently.
    pub(super) at_once: u32,
    /// Number of unsuccessful runs after which it is aborted.
    pub(super) stop_after: Option<u32>,
    /// Size of the standard input of each program, in bytes.
    pub(super) stdin_bytes: u64,
    /// Cause for which it was aborted.
    pub(super) aborted: Option<AbortCause>,
    /// Number of its runs by state; states without a run are left out.
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"running": 2, "succeeded": 10}))]
    pub(super) runs: BTreeMap<&'static str, u64>,
    /// Number of its runs that have ended.
    pub(super) finished: u64,
    /// Version of its stream, as in its `ETag`.
    pub(super) version: u64,
}

impl OperationView {
    /// Creates the view; `None` for an operation whose request is not in the table.
    pub(super) fn new(
        id: OperationId,
        operation: Operation,
        runs: BTreeMap<RunState, u64>,
    ) -> Option<Self> {
        let requested = operation.requested?;
        let finished = runs.iter().filter(|(state, _)| state.is_final()).map(|(_, n)| n).sum();
        let is_over = finished >= requested.devices;
        let status = match (is_over, operation.aborted, operation.paused) {
            (true, Some(_), _) => OperationStatus::Aborted,
            (true, None, _) => OperationStatus::Finished,
            (false, Some(_), _) => OperationStatus::Aborting,
            (false, None, true) => OperationStatus::Paused,
            (false, None, false) => OperationStatus::Running,
        };
        Some(Self {
            id,
            status,
            action: requested.action,
            target: requested.target,
            devices: requested.devices,
            actor: operation.actor,
            requested_at: operation.requested_at,
            timeout_ms: requested.timeout_ms,
            expires_at: requested.expires_at,
            at_once: requested.at_once,
            stop_after: requested.stop_after,
            stdin_bytes: requested.private.map_or(0, |private| private.stdin_bytes),
            aborted: operation.aborted,
            runs: runs.into_iter().map(|(state, count)| (state.as_str(), count)).collect(),
            finished,
            version: operation.version,
        })
    }
}

/// Runs that did not succeed for the same reason.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// The reason.
    pub(super) reason: String,
    /// Number of runs.
    pub(super) count: u64,
    /// Names of some of their devices.
    #[schema(value_type = Vec<String>)]
    pub(super) devices: Vec<String>,
}

/// A slow run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Slow {
    /// The device's name.
    pub(super) device: String,
    /// Duration of its program, in milliseconds.
    pub(super) duration_ms: u64,
}

/// An operation, and a summary of its runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OperationDetail {
    #[serde(flatten)]
    pub(super) operation: OperationView,
    /// Reasons of unsuccessful runs, the most frequent first.
    pub(super) failures: Vec<Failure>,
    /// The slowest runs that have ended.
    pub(super) slowest: Vec<Slow>,
}

/// A run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct RunView {
    /// The operation.
    pub(super) operation: OperationId,
    /// The device.
    pub(super) device: DeviceId,
    /// The device's name.
    #[schema(value_type = Option<DeviceName>)]
    pub(super) name: Option<String>,
    /// State of the run.
    pub(super) state: RunState,
    /// Explanation of the state, and the possible actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explanation: Option<String>,
    /// Time of the request.
    pub(super) requested_at: Timestamp,
    /// Time at which its newest order was signed.
    pub(super) dispatched_at: Option<Timestamp>,
    /// Time at which the device accepted it, by the device's clock.
    pub(super) accepted_at: Option<Timestamp>,
    /// Time at which its program started, by the device's clock.
    pub(super) started_at: Option<Timestamp>,
    /// Time at which its end was recorded in the log.
    pub(super) ended_at: Option<Timestamp>,
    /// Time at which its cancellation was requested.
    pub(super) cancel_requested_at: Option<Timestamp>,
    /// Process id.
    pub(super) pid: Option<u32>,
    /// User that the program runs as.
    pub(super) user: Option<String>,
    /// Exit code, when the program exited by itself.
    pub(super) exit_code: Option<i32>,
    /// Signal that ended it.
    pub(super) signal: Option<i32>,
    /// Reason for which it did not succeed.
    pub(super) reason: Option<String>,
    /// Cause for which the device rejected it.
    pub(super) refused: Option<RefusalCause>,
    /// Duration of its program, by the device's clock.
    pub(super) duration_ms: Option<u64>,
    /// CPU time in user mode.
    pub(super) user_us: Option<u64>,
    /// CPU time in the kernel.
    pub(super) system_us: Option<u64>,
    /// Peak memory of one of its processes, in bytes.
    pub(super) peak_memory: Option<u64>,
    /// Standard output: the number of bytes that were written, and of those that are kept.
    pub(super) stdout: Option<OutputSummary>,
    /// Standard error, likewise.
    pub(super) stderr: Option<OutputSummary>,
    /// Whether the device's report arrived after the server had stopped waiting for it.
    pub(super) late: bool,
    /// Version of its stream, as in its `ETag`.
    pub(super) version: u64,
}

impl RunView {
    pub(super) fn new(
        (operation, device): (OperationId, DeviceId),
        name: Option<String>,
        run: Run,
    ) -> Self {
        let millis = |micros: i64| micros.unsigned_abs() / 1_000;
        let (reason, duration) = (run.failure(), run.duration());
        let report = run.report.as_ref();
        Self {
            operation,
            device,
            name,
            state: run.state,
            explanation: None,
            requested_at: run.requested_at,
            dispatched_at: run.dispatched_at,
            accepted_at: run.accepted_at,
            started_at: run.started_at,
            ended_at: run.ended_at,
            cancel_requested_at: run.cancel_requested_at,
            pid: run.pid,
            user: run.user,
            exit_code: report.and_then(|report| report.exit_code),
            signal: report.and_then(|report| report.signal),
            reason,
            refused: run.refused.as_ref().map(|(cause, _)| *cause),
            duration_ms: duration.map(millis),
            user_us: report.map(|report| report.user_us),
            system_us: report.map(|report| report.system_us),
            peak_memory: report.map(|report| report.peak_memory),
            stdout: report.map(|report| report.stdout),
            stderr: report.map(|report| report.stderr),
            late: run.late,
            version: run.version,
        }
    }
}

/// Returns an example of an operation.
pub(super) fn example() -> Value {
    json!({
        "id": "0198c0de-7002-7abc-8def-0123456789ab", "status": "running",
        "action": {"kind": "exec", "program": {"argv": ["uname", "-a"]}},
        "target": "env=dev", "devices": 12, "actor": "token:0198c0de-7001-7abc-8def-0123456789ab",
        "requested_at": "2026-11-25T09:00:00Z", "timeout_ms": 300_000,
        "expires_at": "2026-11-26T09:00:00Z", "at_once": 100, "stop_after": null, "stdin_bytes": 0,
        "aborted": null, "runs": {"running": 2, "succeeded": 10}, "finished": 10, "version": 1
    })
}

/// Returns an example of an operation with its summary.
pub(super) fn detail_example() -> Value {
    let mut example = example();
    example["failures"] = json!([
        {"reason": "failed: exit code 1", "count": 1, "devices": ["robot-7"]}
    ]);
    example["slowest"] = json!([{"device": "robot-3", "duration_ms": 812}]);
    example
}

/// Returns an example of a run.
pub(super) fn run_example() -> Value {
    json!({
        "operation": "0198c0de-7002-7abc-8def-0123456789ab",
        "device": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7", "state": "failed",
        "explanation": "Its program ended with exit code 1; see its standard error.",
        "requested_at": "2026-11-25T09:00:00Z", "dispatched_at": "2026-11-25T09:00:00.004Z",
        "accepted_at": "2026-11-25T09:00:00.006Z", "started_at": "2026-11-25T09:00:00.008Z",
        "ended_at": "2026-11-25T09:00:00.02Z", "cancel_requested_at": null, "pid": 4711,
        "user": "root", "exit_code": 1, "signal": null, "reason": "failed: exit code 1",
        "refused": null, "duration_ms": 3, "user_us": 900, "system_us": 400,
        "peak_memory": 3_145_728, "stdout": {"bytes": 0, "kept": 0, "hash": null},
        "stderr": {"bytes": 12, "kept": 12, "hash": null}, "late": false, "version": 2
    })
}
