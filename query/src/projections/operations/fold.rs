//! The fold: what each event makes of an operation and of a run. Pure.

use muster_eventlog::StoredEvent;
use muster_schemas::events::{
    AbortCause, Action, ClosedState, EraseCause, OperationRequested, RefusalCause, RunReport,
    Upload,
};
use muster_schemas::{Event, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything that the log says of an operation itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// How it was asked for; absent only before it was.
    pub requested: Option<OperationRequested>,
    /// Who asked.
    pub actor: String,
    /// When.
    pub requested_at: Timestamp,
    /// The position of that event.
    pub created_position: u64,
    /// Is no further run begun for now?
    pub paused: bool,
    /// Why no further run is begun at all.
    pub aborted: Option<AbortCause>,
    /// The version of its stream.
    pub version: u64,
}

impl Operation {
    /// The state after an event of its stream.
    pub fn evolve(&mut self, stored: &StoredEvent, event: &Event) {
        self.version = stored.stream_version;
        match event {
            Event::OperationRequested(requested) => {
                self.requested = Some(requested.clone());
                self.actor.clone_from(&stored.actor);
                self.requested_at = stored.recorded_at;
                self.created_position = stored.position;
            }
            Event::OperationPaused(_) => self.paused = true,
            Event::OperationResumed(_) => self.paused = false,
            Event::OperationAborted(event) => self.aborted = Some(event.cause),
            _ => {}
        }
    }
}

impl Operation {
    /// The file that is asked for, when it is an upload.
    #[must_use]
    pub fn upload(&self) -> Option<&Upload> {
        match self.requested.as_ref().map(|requested| &requested.action) {
            Some(Action::Upload(upload)) => Some(upload),
            _ => None,
        }
    }
}

/// That a file is not kept any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Why.
    pub cause: EraseCause,
    /// When.
    pub at: Timestamp,
}

/// That the server could not keep what a device sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// How many bytes it had.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

/// How far a run has come.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn, or for its device.
    #[default]
    Requested,
    /// Its order is sent until the device answers.
    Dispatched,
    /// The device has it in its journal.
    Accepted,
    /// Its program runs.
    Running,
    /// It did what was asked.
    Succeeded,
    /// Its program failed, or could not be started.
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

impl RunState {
    /// All of them.
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

    /// The word for it.
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

    /// Is it over?
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Requested | Self::Dispatched | Self::Accepted | Self::Running)
    }
}

/// That the server waits no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// What it counts as.
    pub state: ClosedState,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Everything that the log says of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// How far it has come.
    pub state: RunState,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When its newest order was signed.
    pub dispatched_at: Option<Timestamp>,
    /// When the device took it, by the device's clock.
    pub accepted_at: Option<Timestamp>,
    /// When its program started, likewise.
    pub started_at: Option<Timestamp>,
    /// When the log had its end.
    pub ended_at: Option<Timestamp>,
    /// The process.
    pub pid: Option<u32>,
    /// The user that it runs as.
    pub user: Option<String>,
    /// When somebody asked for its end.
    pub cancel_requested_at: Option<Timestamp>,
    /// What the device reported at its end.
    pub report: Option<RunReport>,
    /// Why the device refuses it.
    pub refused: Option<(RefusalCause, String)>,
    /// That the server waits no longer.
    pub closed: Option<Closed>,
    /// That the file of an upload is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<Erased>,
    /// Where the file of an upload could not be kept last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
    /// The device's word came after the server had stopped waiting for it.
    pub late: bool,
    /// The version of its stream.
    pub version: u64,
}

impl Run {
    /// The state after an event of the run's stream, or one of its device's.
    pub fn evolve(&mut self, stored: &StoredEvent, event: &Event) {
        let at = stored.recorded_at;
        match event {
            Event::RunRequested(_) => self.requested_at = at,
            Event::RunDispatched(_) => {
                self.dispatched_at = Some(at);
                self.go_on(RunState::Dispatched);
            }
            Event::RunCancelRequested(_) => self.cancel_requested_at = Some(at),
            Event::RunClosed(closed) => {
                // What the device said counts more.
                if !self.state.is_final() {
                    self.state = match closed.state {
                        ClosedState::Expired => RunState::Expired,
                        ClosedState::TimedOut => RunState::TimedOut,
                        ClosedState::Canceled => RunState::Canceled,
                        ClosedState::Unknown => RunState::Unknown,
                    };
                    self.ended_at = Some(at);
                }
                let (state, reason) = (closed.state, closed.reason.clone());
                self.closed = Some(Closed { state, reason, at });
            }
            Event::RunAccepted(_) => {
                self.accepted_at = Some(stored.occurred_at);
                self.go_on(RunState::Accepted);
            }
            Event::RunStarted(started) => {
                self.started_at = Some(stored.occurred_at);
                self.pid = started.pid;
                self.user.clone_from(&started.user);
                self.go_on(RunState::Running);
            }
            Event::RunSucceeded(event) => self.end(RunState::Succeeded, Some(&event.0), at),
            Event::RunFailed(event) => self.end(RunState::Failed, Some(&event.0), at),
            Event::RunTimedOut(event) => self.end(RunState::TimedOut, Some(&event.0), at),
            Event::RunCanceled(event) => self.end(RunState::Canceled, Some(&event.0), at),
            Event::RunInterrupted(event) => self.end(RunState::Unknown, Some(&event.0), at),
            Event::RunRejected(event) => {
                self.refused = Some((event.cause, event.reason.clone()));
                self.end(RunState::Rejected, None, at);
            }
            Event::RunExpired(_) => self.end(RunState::Expired, None, at),
            Event::UploadErased(event) => {
                self.erased.get_or_insert(Erased { cause: event.cause, at });
            }
            Event::UploadStalled(event) => {
                self.stalled = Some(Stalled { bytes: event.bytes, reason: event.reason.clone() });
            }
            Event::DownloadLinkMade(_) => {}
            _ => return,
        }
        if matches!(stored.stream, muster_schemas::StreamName::Run(..)) {
            self.version = stored.stream_version;
        }
    }

    /// An order that is signed anew takes nothing back that the device has said.
    fn go_on(&mut self, state: RunState) {
        if state > self.state && !self.state.is_final() {
            self.state = state;
        }
    }

    fn end(&mut self, state: RunState, report: Option<&RunReport>, at: Timestamp) {
        self.late = self.closed.is_some();
        self.state = state;
        self.ended_at = Some(at);
        self.report = report.cloned();
        if let Some(started) = report.and_then(|report| report.started_at) {
            self.started_at.get_or_insert(started);
        }
    }

    /// How long its program ran, in microseconds, by the device's clock.
    #[must_use]
    pub fn duration(&self) -> Option<i64> {
        let report = self.report.as_ref()?;
        Some(report.ended_at?.micros().saturating_sub(report.started_at?.micros()).max(0))
    }

    /// Why it did not succeed, in words that are the same for the same reason.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if !self.state.is_final() || self.state == RunState::Succeeded {
            return None;
        }
        let report = self.report.as_ref();
        let closed = self.closed.as_ref().filter(|_| report.is_none());
        let words = match (&self.refused, report, closed) {
            (Some((_, reason)), _, _) => reason.clone(),
            (None, Some(RunReport { problem: Some(problem), .. }), _) => problem.clone(),
            (None, Some(RunReport { signal: Some(signal), .. }), _) => format!("signal {signal}"),
            (None, Some(RunReport { exit_code: Some(code), .. }), _) => format!("exit code {code}"),
            (None, _, Some(closed)) => closed.reason.clone(),
            _ => String::new(),
        };
        let state = self.state.as_str();
        Some(if words.is_empty() { state.to_owned() } else { format!("{state}: {words}") })
    }
}
