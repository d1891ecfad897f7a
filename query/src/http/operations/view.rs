//! Operations and runs in responses of the API.

use std::collections::BTreeMap;

use muster_api_types::actions::Action;
use muster_api_types::devices::DeviceRef;
use muster_api_types::operations::{self, DevicesTarget, OperationStatus, SelectorTarget, Target};
use muster_api_types::runs;
use muster_schemas::events::{OperationRequested, RequestedTarget};
use muster_schemas::{DeviceId, OperationId, RunState};
use serde_json::{Value, json};

use crate::projections::operations::{Operation, Run};

/// Creates the view; `None` for an operation whose request is not in the table.
pub(super) fn operation_view(
    id: OperationId,
    operation: Operation,
    runs: BTreeMap<RunState, u64>,
) -> Option<operations::Operation> {
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
    let stdin_bytes = requested.private.map_or(0, |private| private.stdin_bytes);
    Some(operations::Operation {
        id,
        status: status.into(),
        target: requested_target(&requested).into(),
        action: Action::from_event(requested.action, stdin_bytes).into(),
        device_count: requested.devices,
        created_by: operation.actor,
        created_at: operation.requested_at,
        timeout_seconds: u32::try_from(requested.timeout_ms / 1_000).unwrap_or(u32::MAX),
        expires_at: requested.expires_at,
        max_concurrent_devices: requested.at_once,
        max_failures: requested.stop_after,
        abort_cause: operation.aborted.map(Into::into),
        run_counts: runs
            .into_iter()
            .map(|(state, count)| (state.as_str().to_owned(), count))
            .collect(),
        finished_count: finished,
        version: operation.version,
    })
}

/// Returns the devices that were requested.
pub(crate) fn requested_target(requested: &OperationRequested) -> Target {
    match requested.target.clone() {
        RequestedTarget::Devices(devices) => Target::Devices(DevicesTarget { devices }),
        RequestedTarget::Selector(selector) | RequestedTarget::Text(selector) => {
            Target::Selector(SelectorTarget { selector })
        }
    }
}

/// Creates the view of a run, without an explanation.
pub(super) fn run_view(
    operation: OperationId,
    device: DeviceId,
    name: Option<String>,
    run: Run,
) -> runs::Run {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
    let seconds = |micros: u64| micros as f64 / 1e6;
    let (reason, duration) = (run.failure(), run.duration());
    let report = run.report.as_ref();
    runs::Run {
        operation,
        device: DeviceRef { id: device, name },
        status: run.state.into(),
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
        refusal_cause: run.refused.as_ref().map(|(cause, _)| (*cause).into()),
        duration_seconds: duration.map(|duration| duration.as_secs_f64()),
        cpu_user_seconds: report.map(|report| seconds(report.user_us)),
        cpu_system_seconds: report.map(|report| seconds(report.system_us)),
        peak_memory_bytes: report.map(|report| report.peak_memory),
        stdout: report.map(|report| report.stdout.into()),
        stderr: report.map(|report| report.stderr.into()),
        late: run.late,
        version: run.version,
    }
}

/// Returns an example of an operation.
pub(super) fn example() -> Value {
    json!({
        "id": "0198c0de-7002-7abc-8def-0123456789ab", "status": "running",
        "action": {"kind": "exec", "argv": ["uname", "-a"]},
        "target": {"kind": "selector", "selector": "env=dev"}, "device_count": 12,
        "created_by": "token:0198c0de-7001-7abc-8def-0123456789ab",
        "created_at": "2026-11-25T09:00:00Z", "timeout_seconds": 300,
        "expires_at": "2026-11-26T09:00:00Z", "max_concurrent_devices": 100,
        "max_failures": null, "abort_cause": null,
        "run_counts": {"running": 2, "succeeded": 10}, "finished_count": 10, "version": 1
    })
}

/// Returns an example of an operation with its summary.
pub(super) fn detail_example() -> Value {
    let mut example = example();
    example["failures"] = json!([
        {"reason": "failed: exit code 1", "run_count": 1, "devices": [device_example()]}
    ]);
    example["slowest_runs"] = json!([{"device": device_example(), "duration_seconds": 0.812}]);
    example
}

fn device_example() -> Value {
    json!({"id": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7"})
}

/// Returns an example of a run.
pub(super) fn run_example() -> Value {
    json!({
        "operation": "0198c0de-7002-7abc-8def-0123456789ab",
        "device": device_example(), "status": "failed",
        "explanation": "Its program ended with exit code 1; see its standard error.",
        "requested_at": "2026-11-25T09:00:00Z", "dispatched_at": "2026-11-25T09:00:00.004Z",
        "accepted_at": "2026-11-25T09:00:00.006Z", "started_at": "2026-11-25T09:00:00.008Z",
        "ended_at": "2026-11-25T09:00:00.02Z", "cancel_requested_at": null, "pid": 4711,
        "user": "root", "exit_code": 1, "signal": null, "reason": "failed: exit code 1",
        "refusal_cause": null, "duration_seconds": 0.003, "cpu_user_seconds": 0.0009,
        "cpu_system_seconds": 0.0004, "peak_memory_bytes": 3_145_728,
        "stdout": {"size_bytes": 0, "stored_bytes": 0, "hash": null},
        "stderr": {"size_bytes": 12, "stored_bytes": 12, "hash": null},
        "late": false, "version": 2
    })
}
