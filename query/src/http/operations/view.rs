//! How operations and runs are shown.

use std::collections::BTreeMap;

use muster_schemas::events::{AbortCause, Action, OutputSummary, RefusalCause};
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, OperationId, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::projections::operations::{Operation, Run, RunState};

/// Where an operation as a whole stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OperationStatus {
    /// Devices are at it, or are waited for.
    Running,
    /// No further run is begun for now.
    Paused,
    /// No further run is begun, and not all that were are over.
    Aborting,
    /// It was aborted, and all of its runs are over.
    Aborted,
    /// All of its runs are over.
    Finished,
}

/// An operation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OperationView {
    /// Its id.
    pub(super) id: OperationId,
    /// Where it stands.
    pub(super) status: OperationStatus,
    /// What is to be done.
    pub(super) action: Action,
    /// Which devices were meant, in the words of whoever asked.
    pub(super) target: String,
    /// How many devices that was.
    pub(super) devices: u64,
    /// Who asked.
    pub(super) actor: String,
    /// When.
    pub(super) requested_at: Timestamp,
    /// How long a run may take.
    pub(super) timeout_ms: u64,
    /// When a run that was not begun has expired.
    pub(super) expires_at: Timestamp,
    /// How many devices work at it at once.
    pub(super) at_once: u32,
    /// After so many runs that did not succeed, it is aborted.
    pub(super) stop_after: Option<u32>,
    /// How many bytes of standard input each program gets.
    pub(super) stdin_bytes: u64,
    /// Why it was aborted.
    pub(super) aborted: Option<AbortCause>,
    /// How many of its runs are in which state; states without a run are left out.
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"running": 2, "succeeded": 10}))]
    pub(super) runs: BTreeMap<&'static str, u64>,
    /// How many of its runs are over.
    pub(super) finished: u64,
    /// The version of its stream, as in its `ETag`.
    pub(super) version: u64,
}

impl OperationView {
    /// `None` for one whose beginning is not in the table.
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
    /// How many.
    pub(super) count: u64,
    /// The names of some of their devices.
    #[schema(value_type = Vec<String>)]
    pub(super) devices: Vec<String>,
}

/// A run that took long.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Slow {
    /// The device's name.
    pub(super) device: String,
    /// How long its program ran.
    pub(super) duration_ms: u64,
}

/// An operation, and a summary of its runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OperationDetail {
    #[serde(flatten)]
    pub(super) operation: OperationView,
    /// Why runs did not succeed, the most frequent reason first.
    pub(super) failures: Vec<Failure>,
    /// The slowest runs that are over.
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
    /// How far it has come.
    pub(super) state: RunState,
    /// Why it is in that state, and what can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explanation: Option<String>,
    /// When it was asked for.
    pub(super) requested_at: Timestamp,
    /// When its newest order was signed.
    pub(super) dispatched_at: Option<Timestamp>,
    /// When the device took it, by the device's clock.
    pub(super) accepted_at: Option<Timestamp>,
    /// When its program started, by the device's clock.
    pub(super) started_at: Option<Timestamp>,
    /// When the log had its end.
    pub(super) ended_at: Option<Timestamp>,
    /// When somebody asked for its end.
    pub(super) cancel_requested_at: Option<Timestamp>,
    /// The process.
    pub(super) pid: Option<u32>,
    /// The user that it runs as.
    pub(super) user: Option<String>,
    /// The exit code, when the program ended by itself.
    pub(super) exit_code: Option<i32>,
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
    /// Why it did not succeed.
    pub(super) reason: Option<String>,
    /// Why the device refuses it.
    pub(super) refused: Option<RefusalCause>,
    /// How long its program ran, by the device's clock.
    pub(super) duration_ms: Option<u64>,
    /// CPU time in user mode.
    pub(super) user_us: Option<u64>,
    /// CPU time in the kernel.
    pub(super) system_us: Option<u64>,
    /// The most memory that one of its processes had, in bytes.
    pub(super) peak_memory: Option<u64>,
    /// Standard output: how much was written, and how much of it is kept.
    pub(super) stdout: Option<OutputSummary>,
    /// Standard error, likewise.
    pub(super) stderr: Option<OutputSummary>,
    /// The device's word came after the server had stopped waiting for it.
    pub(super) late: bool,
    /// The version of its stream, as in its `ETag`.
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
            user: run.user.clone(),
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

/// An example of an operation.
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

/// An example of an operation with its summary.
pub(super) fn detail_example() -> Value {
    let mut example = example();
    example["failures"] = json!([
        {"reason": "failed: exit code 1", "count": 1, "devices": ["robot-7"]}
    ]);
    example["slowest"] = json!([{"device": "robot-3", "duration_ms": 812}]);
    example
}

/// An example of a run.
pub(super) fn run_example() -> Value {
    json!({
        "operation": "0198c0de-7002-7abc-8def-0123456789ab",
        "device": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7", "state": "failed",
        "explanation": "Its program ended with exit code 1; look at its standard error.",
        "requested_at": "2026-11-25T09:00:00Z", "dispatched_at": "2026-11-25T09:00:00.004Z",
        "accepted_at": "2026-11-25T09:00:00.006Z", "started_at": "2026-11-25T09:00:00.008Z",
        "ended_at": "2026-11-25T09:00:00.02Z", "cancel_requested_at": null, "pid": 4711,
        "user": "root", "exit_code": 1, "signal": null, "reason": "failed: exit code 1",
        "refused": null, "duration_ms": 3, "user_us": 900, "system_us": 400,
        "peak_memory": 3_145_728, "stdout": {"bytes": 0, "kept": 0, "hash": null},
        "stderr": {"bytes": 12, "kept": 12, "hash": null}, "late": false, "version": 2
    })
}
