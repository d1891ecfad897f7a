//! Operations and runs in responses of the API.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_api_types::operations::{OperationStatus, OperationView};
use muster_api_types::runs::RunView;
use muster_schemas::{DeviceId, OperationId, RunState};
use serde_json::{Value, json};

use crate::projections::operations::{Operation, Run};

/// Creates the view; `None` for an operation whose request is not in the table.
pub(super) fn operation_view(
    id: OperationId,
    operation: Operation,
    runs: BTreeMap<RunState, u64>,
) -> Option<OperationView> {
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
    Some(OperationView {
        id,
        status: status.into(),
        action: requested.action.into(),
        target: requested.target,
        devices: requested.devices,
        actor: operation.actor,
        requested_at: operation.requested_at,
        timeout_ms: requested.timeout_ms,
        expires_at: requested.expires_at,
        at_once: requested.at_once,
        stop_after: requested.stop_after,
        stdin_bytes: requested.private.map_or(0, |private| private.stdin_bytes),
        aborted: operation.aborted.map(Into::into),
        runs: runs.into_iter().map(|(state, count)| (state.as_str().to_owned(), count)).collect(),
        finished,
        version: operation.version,
    })
}

/// Creates the view of a run, without an explanation.
pub(super) fn run_view(
    operation: OperationId,
    device: DeviceId,
    name: Option<String>,
    run: Run,
) -> RunView {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (reason, duration) = (run.failure(), run.duration());
    let report = run.report.as_ref();
    RunView {
        operation,
        device,
        name,
        state: run.state.into(),
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
        refused: run.refused.as_ref().map(|(cause, _)| (*cause).into()),
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
