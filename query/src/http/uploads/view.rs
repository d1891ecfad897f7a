//! Uploads in responses of the API.

use std::time::Duration;

use muster_api_types::devices::DeviceRef;
use muster_api_types::uploads::{Upload, UploadContent, UploadStatus};
use muster_schemas::events;
use muster_schemas::{DeviceId, OperationId, RunState};
use serde_json::{Value, json};

use crate::projections::operations::{Operation, Run};

/// Returns the status of the upload of a run.
pub(super) const fn status_of(run: &Run) -> UploadStatus {
    match run.state {
        RunState::Succeeded if run.erased.is_some() => UploadStatus::Erased,
        RunState::Succeeded => UploadStatus::Stored,
        RunState::Requested | RunState::Dispatched | RunState::Accepted => UploadStatus::Waiting,
        RunState::Running => UploadStatus::Sending,
        RunState::Failed => UploadStatus::Failed,
        RunState::TimedOut => UploadStatus::TimedOut,
        RunState::Canceled => UploadStatus::Canceled,
        RunState::Expired => UploadStatus::Expired,
        RunState::Rejected => UploadStatus::Rejected,
        RunState::Unknown => UploadStatus::Unknown,
    }
}

/// Returns the condition on the table of runs, `r`, and that of uploads, `u`.
pub(super) const fn condition(status: UploadStatus) -> &'static str {
    match status {
        UploadStatus::Waiting => "r.status IN ('requested', 'dispatched', 'accepted')",
        UploadStatus::Sending => "r.status = 'running'",
        UploadStatus::Stored => "(r.status = 'succeeded' AND NOT u.erased)",
        UploadStatus::Erased => "(r.status = 'succeeded' AND u.erased)",
        UploadStatus::Failed => "r.status = 'failed'",
        UploadStatus::TimedOut => "r.status = 'timed_out'",
        UploadStatus::Canceled => "r.status = 'canceled'",
        UploadStatus::Expired => "r.status = 'expired'",
        UploadStatus::Rejected => "r.status = 'rejected'",
        UploadStatus::Unknown => "r.status = 'unknown'",
    }
}

/// Creates the view; `None` for an operation that is not an upload.
pub(super) fn view(
    (operation, device): (OperationId, DeviceId),
    name: Option<String>,
    requested: &Operation,
    run: &Run,
) -> Option<Upload> {
    let upload: &events::Upload = requested.upload()?;
    let status = status_of(run);
    let file = run.report.as_ref().and_then(|report| report.file.as_ref());
    let stored_at = file.and(run.ended_at);
    let keep = upload.keep_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let size_bytes = file.map(|file| file.bytes);
    let problem = match status {
        UploadStatus::Stored | UploadStatus::Erased => {
            run.report.as_ref().and_then(|report| report.problem.clone())
        }
        _ => run.failure(),
    };
    Some(Upload {
        operation,
        device: DeviceRef { id: device, name },
        status: status.into(),
        explanation: None,
        path: upload.path.clone(),
        file_name: file.map(|file| file.name.clone()),
        content: file.map(|file| content(file).into()),
        size_bytes,
        received_bytes: if status == UploadStatus::Stored { size_bytes.unwrap_or(0) } else { 0 },
        created_by: requested.actor.clone(),
        created_at: run.requested_at,
        started_at: run.started_at,
        stored_at,
        expires_at: stored_at
            .filter(|_| status == UploadStatus::Stored)
            .and_then(|at| Some(at + keep?)),
        erased_at: run.erased.map(|erased| erased.at),
        erase_cause: run.erased.map(|erased| erased.cause.into()),
        problem,
        remove_source: upload.remove_source,
        replace: upload.replace,
        max_bytes: upload.limit(),
        max_bytes_per_second: upload.bytes_per_second,
        version: run.version,
    })
}

const fn content(file: &events::FileSummary) -> UploadContent {
    if file.is_folder { UploadContent::Folder } else { UploadContent::File }
}

/// Sets the number of bytes that the server has, and the size if it is known.
pub(super) fn set_received(view: &mut Upload, done: u64, total: Option<u64>, run: &Run) {
    view.received_bytes = done;
    view.size_bytes = total.or(view.size_bytes);
    // The transfer has continued since: the reported obstacle is outdated.
    let stalled = run.stalled.as_ref().filter(|stalled| stalled.bytes >= done);
    view.problem = stalled.map(|stalled| stalled.reason.clone());
}

/// Returns an example of an upload.
pub(super) fn example() -> Value {
    json!({
        "operation": "0198c0de-7002-7abc-8def-0123456789ab",
        "device": {"id": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7"},
        "status": "stored", "explanation": "The server has the file.",
        "path": "/var/log/app.log", "file_name": "app.log", "content": "file",
        "size_bytes": 52_428_800, "received_bytes": 52_428_800,
        "created_by": "token:0198c0de-7001-7abc-8def-0123456789ab",
        "created_at": "2026-11-25T09:00:00Z", "started_at": "2026-11-25T09:00:01Z",
        "stored_at": "2026-11-25T09:00:09Z", "expires_at": "2026-12-25T09:00:09Z",
        "erased_at": null, "erase_cause": null, "problem": null, "remove_source": false,
        "replace": true, "max_bytes": 1_073_741_824, "max_bytes_per_second": null, "version": 2
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
            let shown = status_of(&run);
            assert_eq!(UploadStatus::parse(shown.as_str()), Some(shown));
            assert!(condition(shown).contains(state.as_str()), "{state:?}");
        }
        let at = Timestamp(1);
        let erased = Some(Erased { cause: EraseCause::Asked, at });
        let run = Run { state: RunState::Succeeded, erased, ..Run::default() };
        assert_eq!(status_of(&run), UploadStatus::Erased);
        assert_eq!(UploadStatus::parse("nonsense"), None);
    }
}
