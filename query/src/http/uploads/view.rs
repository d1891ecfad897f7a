//! How uploads are shown.

use muster_schemas::events::{EraseCause, Upload};
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::projections::operations::{Operation, Run, RunState};

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UploadState {
    /// It waits for its turn, or for its device.
    Waiting,
    /// The device sends it.
    Sending,
    /// The server has all of it.
    Stored,
    /// It is not kept any more.
    Erased,
    /// It is not here, and will not come.
    Failed,
    /// It took longer than it may.
    TimedOut,
    /// Somebody ended it.
    Canceled,
    /// Nobody began it in time.
    Expired,
    /// The device refuses it.
    Rejected,
    /// How it ended is not known.
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

    /// The word for it.
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

    pub(super) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    pub(super) fn words() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    pub(super) const fn of(run: &Run) -> Self {
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

    /// As a condition on the table of runs, `r`, and that of uploads, `u`.
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

    /// May the server have some of it that is not all?
    pub(super) const fn is_partial(self) -> bool {
        matches!(self, Self::Sending)
    }
}

/// A file that was asked of a device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct UploadView {
    /// The operation that asks for it.
    operation: OperationId,
    /// The device.
    device: DeviceId,
    /// The device's name.
    #[schema(value_type = Option<DeviceName>)]
    device_name: Option<String>,
    /// Where it stands.
    pub(super) state: UploadState,
    /// Why it is in that state, and what can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explanation: Option<String>,
    /// Its path on the device.
    path: String,
    /// What the file is called here.
    name: Option<String>,
    /// Is it the tar archive of a folder, compressed by gzip?
    is_folder: bool,
    /// How many bytes it is; not known before the device has begun.
    pub(super) bytes: Option<u64>,
    /// How many bytes of it the server has.
    pub(super) bytes_done: u64,
    /// Who asked.
    actor: String,
    /// When.
    requested_at: Timestamp,
    /// When the device began, by its clock.
    started_at: Option<Timestamp>,
    /// When the server had all of it.
    stored_at: Option<Timestamp>,
    /// When it is erased by itself.
    erase_at: Option<Timestamp>,
    /// When it was erased.
    erased_at: Option<Timestamp>,
    /// Why it was erased.
    erased: Option<EraseCause>,
    /// What is in its way, or what went wrong.
    pub(super) problem: Option<String>,
    /// Does the device remove the file once the server has it?
    remove_source: bool,
    /// Does it replace what was stored before from the same path?
    replace: bool,
    /// More bytes are not taken.
    max_bytes: u64,
    /// It is sent no faster.
    bytes_per_second: Option<u64>,
    /// The version of its run's stream, as in its `ETag`.
    pub(super) version: u64,
}

impl UploadView {
    /// `None` for what is no upload.
    pub(super) fn new(
        (operation, device): (OperationId, DeviceId),
        device_name: Option<String>,
        asked: &Operation,
        run: &Run,
    ) -> Option<Self> {
        let upload: &Upload = asked.upload()?;
        let state = UploadState::of(run);
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
            actor: asked.actor.clone(),
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

    /// The server has so much of it, and knows how much it will be.
    pub(super) fn has(&mut self, done: u64, total: Option<u64>, run: &Run) {
        self.bytes_done = done;
        self.bytes = total.or(self.bytes);
        // Since then it went on: it is not in the way any more.
        let stalled = run.stalled.as_ref().filter(|stalled| stalled.bytes >= done);
        self.problem = stalled.map(|stalled| stalled.reason.clone());
    }
}

/// An example of an upload.
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
    fn every_state_of_a_run_is_one_of_its_upload() {
        for state in RunState::ALL {
            let run = Run { state, ..Run::default() };
            let shown = UploadState::of(&run);
            assert_eq!(UploadState::read(shown.as_str()), Some(shown));
            assert!(shown.condition().contains(state.as_str()), "{state:?}");
        }
        let at = Timestamp(1);
        let erased = Some(Erased { cause: EraseCause::Asked, at });
        let run = Run { state: RunState::Succeeded, erased, ..Run::default() };
        assert_eq!(UploadState::of(&run), UploadState::Erased);
        assert_eq!(UploadState::read("nonsense"), None);
    }
}
