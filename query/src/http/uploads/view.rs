//! Uploads in responses of the API.

use muster_schemas::events::{EraseCause, Upload};
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::projections::operations::{Operation, Run, RunState};

/// State of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UploadState {
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

impl UploadState {
    const ALL: [Self; 10] = [
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
    pub(super) const fn as_str(self) -> &'static str {
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

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub(super) fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    pub(super) const fn from_run(run: &Run) -> Self {
        match run.state {
            RunState::Succeeded if run.erased.is_some() => Self::Erased,
            RunState::Succeeded => Self::Stored,
            RunState::Requested | RunState::Dispatched | RunState::Accepted => Self::Waiting,
            RunState::Running => Self::Sending,
            RunState::Failed => Self::Failed,
            RunState::TimedOut => Self::TimedOut,
            RunState::Canceled => Self::Canceled,
            RunState::Expired => Self::Expired,
            RunState::Rejected => Self::Rejected,
            RunState::Unknown => Self::Unknown,
        }
    }

    /// Returns the condition on the table of runs, `r`, and that of uploads, `u`.
    pub(super) const fn condition(self) -> &'static str {
        match self {
            Self::Waiting => "r.status IN ('requested', 'dispatched', 'accepted')",
            Self::Sending => "r.status = 'running'",
            Self::Stored => "(r.status = 'succeeded' AND NOT u.erased)",
            Self::Erased => "(r.status = 'succeeded' AND u.erased)",
            Self::Failed => "r.status = 'failed'",
            Self::TimedOut => "r.status = 'timed_out'",
            Self::Canceled => "r.status = 'canceled'",
            Self::Expired => "r.status = 'expired'",
            Self::Rejected => "r.status = 'rejected'",
            Self::Unknown => "r.status = 'unknown'",
        }
    }

    /// Whether the server may have a part of the file.
    pub(super) const fn is_partial(self) -> bool {
        matches!(self, Self::Sending)
    }
}

/// A file that was requested from a device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct UploadView {
    /// Operation that requested it.
    operation: OperationId,
    /// The device.
    device: DeviceId,
    /// The device's name.
    #[schema(value_type = Option<DeviceName>)]
    device_name: Option<String>,
    /// State of the upload.
    pub(super) state: UploadState,
    /// Explanation of the state, and the possible actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explanation: Option<String>,
    /// Path on the device.
    path: String,
    /// Name of the stored file.
    name: Option<String>,
    /// Whether the file is the tar archive of a folder, compressed with gzip.
    is_folder: bool,
    /// Size in bytes; unknown before the device has started.
    pub(super) bytes: Option<u64>,
    /// Number of bytes that the server has.
    pub(super) bytes_done: u64,
    /// The actor that requested it.
    actor: String,
    /// Time of the request.
    requested_at: Timestamp,
    /// Time at which the device started, by its clock.
    started_at: Option<Timestamp>,
    /// Time at which the server had the whole file.
    stored_at: Option<Timestamp>,
    /// Time at which it is erased automatically.
    erase_at: Option<Timestamp>,
    /// Time at which it was erased.
    erased_at: Option<Timestamp>,
    /// Cause for which it was erased.
    erased: Option<EraseCause>,
    /// The current obstacle, or the cause of the failure.
    pub(super) problem: Option<String>,
    /// Whether the device removes the file once the server has it.
    remove_source: bool,
    /// Whether it replaces the stored files of the same path.
    replace: bool,
    /// Maximum size of the file, in bytes.
    max_bytes: u64,
    /// Maximum transfer rate, in bytes per second.
    bytes_per_second: Option<u64>,
    /// Version of its run's stream, as in its `ETag`.
    pub(super) version: u64,
}

impl UploadView {
    /// Creates the view; `None` for an operation that is not an upload.
    pub(super) fn new(
        (operation, device): (OperationId, DeviceId),
        device_name: Option<String>,
        requested: &Operation,
        run: &Run,
    ) -> Option<Self> {
        let upload: &Upload = requested.upload()?;
        let state = UploadState::from_run(run);
        let file = run.report.as_ref().and_then(|report| report.file.as_ref());
        let stored_at = file.and(run.ended_at);
        let keep = upload.keep_seconds.map(|seconds| i64::from(seconds) * 1_000_000);
        let bytes = file.map(|file| file.bytes);
        let problem = match state {
            UploadState::Stored | UploadState::Erased => {
                run.report.as_ref().and_then(|report| report.problem.clone())
            }
            _ => run.failure(),
        };
        Some(Self {
            operation,
            device,
            device_name,
            state,
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
                .and_then(|at| Some(at.plus_micros(keep?))),
            erased_at: run.erased.map(|erased| erased.at),
            erased: run.erased.map(|erased| erased.cause),
            problem,
            remove_source: upload.remove_source,
            replace: upload.replace,
            max_bytes: upload.limit(),
            bytes_per_second: upload.bytes_per_second,
            version: run.version,
        })
    }

    /// Sets the number of bytes that the server has, and the size if it is known.
    pub(super) fn set_received(&mut self, done: u64, total: Option<u64>, run: &Run) {
        self.bytes_done = done;
        self.bytes = total.or(self.bytes);
        // The transfer has continued since: the reported obstacle is outdated.
        let stalled = run.stalled.as_ref().filter(|stalled| stalled.bytes >= done);
        self.problem = stalled.map(|stalled| stalled.reason.clone());
    }
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
    use super::*;
    use crate::projections::operations::Erased;

    #[test]
    fn every_run_state_maps_to_an_upload_state() {
        for state in RunState::ALL {
            let run = Run { state, ..Run::default() };
            let shown = UploadState::from_run(&run);
            assert_eq!(UploadState::parse(shown.as_str()), Some(shown));
            assert!(shown.condition().contains(state.as_str()), "{state:?}");
        }
        let at = Timestamp(1);
        let erased = Some(Erased { cause: EraseCause::Asked, at });
        let run = Run { state: RunState::Succeeded, erased, ..Run::default() };
        assert_eq!(UploadState::from_run(&run), UploadState::Erased);
        assert_eq!(UploadState::parse("nonsense"), None);
    }
}
