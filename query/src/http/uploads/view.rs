//! Uploads in responses of the API.

use std::time::Duration;

use muster_api_types::uploads::{UploadState, UploadView};
use muster_schemas::events::Upload;
use muster_schemas::{DeviceId, OperationId, RunState};
use serde_json::{Value, json};

use crate::projections::operations::{Operation, Run};

/// Returns the state of the upload of a run.
pub(super) const fn state_of(run: &Run) -> UploadState {
    match run.state {
        RunState::Succeeded if run.erased.is_some() => UploadState::Erased,
        RunState::Succeeded => UploadState::Stored,
        RunState::Requested | RunState::Dispatched | RunState::Accepted => UploadState::Waiting,
        RunState::Running => UploadState::Sending,
        RunState::Failed => UploadState::Failed,
        RunState::TimedOut => UploadState::TimedOut,
        RunState::Canceled => UploadState::Canceled,
        RunState::Expired => UploadState::Expired,
        RunState::Rejected => UploadState::Rejected,
        RunState::Unknown => UploadState::Unknown,
    }
}

/// Returns the condition on the table of runs, `r`, and that of uploads, `u`.
pub(super) const fn condition(state: UploadState) -> &'static str {
    match state {
        UploadState::Waiting => "r.status IN ('requested', 'dispatched', 'accepted')",
        UploadState::Sending => "r.status = 'running'",
        UploadState::Stored => "(r.status = 'succeeded' AND NOT u.erased)",
        UploadState::Erased => "(r.status = 'succeeded' AND u.erased)",
        UploadState::Failed => "r.status = 'failed'",
        UploadState::TimedOut => "r.status = 'timed_out'",
        UploadState::Canceled => "r.status = 'canceled'",
        UploadState::Expired => "r.status = 'expired'",
        UploadState::Rejected => "r.status = 'rejected'",
        UploadState::Unknown => "r.status = 'unknown'",
    }
}

/// Creates the view; `None` for an operation that is not an upload.
pub(super) fn view(
    (operation, device): (OperationId, DeviceId),
    device_name: Option<String>,
    requested: &Operation,
    run: &Run,
) -> Option<UploadView> {
    let upload: &Upload = requested.upload()?;
    let state = state_of(run);
    let file = run.report.as_ref().and_then(|report| report.file.as_ref());
    let stored_at = file.and(run.ended_at);
    let keep = upload.keep_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let bytes = file.map(|file| file.bytes);
    let problem = match state {
        UploadState::Stored | UploadState::Erased => {
            run.report.as_ref().and_then(|report| report.problem.clone())
        }
        _ => run.failure(),
    };
    Some(UploadView {
        operation,
        device,
        device_name,
        state: state.into(),
        explanation: None,
        path: upload.path.clone(),
        name: file.map(|file| file.name.clone()),
        is_folder: file.is_some_and(|file| file.is_folder),
        bytes,
        bytes_done: if state == UploadState::Stored { bytes.unwrap_or(0) } else { 0 },
        actor: requested.actor.clone(),
        requested_at: run.requested_at,
        started_at: run.started_at,
        stored_at,
        erase_at: stored_at
            .filter(|_| state == UploadState::Stored)
            .and_then(|at| Some(at + keep?)),
        erased_at: run.erased.map(|erased| erased.at),
        erased: run.erased.map(|erased| erased.cause.into()),
        problem,
        remove_source: upload.remove_source,
        replace: upload.replace,
        max_bytes: upload.limit(),
        bytes_per_second: upload.bytes_per_second,
        version: run.version,
    })
}

/// Sets the number of bytes that the server has, and the size if it is known.
pub(super) fn set_received(view: &mut UploadView, done: u64, total: Option<u64>, run: &Run) {
    view.bytes_done = done;
    view.bytes = total.or(view.bytes);
    // The transfer has continued since: the reported obstacle is outdated.
    let stalled = run.stalled.as_ref().filter(|stalled| stalled.bytes >= done);
    view.problem = stalled.map(|stalled| stalled.reason.clone());
}

/// Returns an example of an upload.
pub(super) fn example() -> Value {
    json!({
        "operation": "0198c0de-7002-7abc-8def-0123456789ab",
        "device": "0198c0de-7000-7abc-8def-0123456789ab", "device_name": "robot-7",
        "state": "stored", "explanation": "The server has the file.",
        "path": "/var/log/app.log", "name": "app.log", "is_folder": false,
        "bytes": 52_428_800, "bytes_done": 52_428_800,
        "actor": "token:0198c0de-7001-7abc-8def-0123456789ab",
        "requested_at": "2026-11-25T09:00:00Z", "started_at": "2026-11-25T09:00:01Z",
        "stored_at": "2026-11-25T09:00:09Z", "erase_at": "2026-12-25T09:00:09Z",
        "erased_at": null, "erased": null, "problem": null, "remove_source": false,
        "replace": true, "max_bytes": 1_073_741_824, "bytes_per_second": null, "version": 2
    })
}

#[cfg(test)]
mod tests {
    use muster_schemas::Timestamp;
    use muster_schemas::events::EraseCause;

    use super::*;
    use crate::projections::operations::Erased;

    #[test]
    fn every_run_state_maps_to_an_upload_state() {
        for state in RunState::ALL {
            let run = Run { state, ..Run::default() };
            let shown = state_of(&run);
            assert_eq!(UploadState::parse(shown.as_str()), Some(shown));
            assert!(condition(shown).contains(state.as_str()), "{state:?}");
        }
        let at = Timestamp(1);
        let erased = Some(Erased { cause: EraseCause::Asked, at });
        let run = Run { state: RunState::Succeeded, erased, ..Run::default() };
        assert_eq!(state_of(&run), UploadState::Erased);
        assert_eq!(UploadState::parse("nonsense"), None);
    }
}
