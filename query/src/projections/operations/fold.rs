//! The fold: the effect of each event on an operation and on a run. Pure.

use std::time::Duration;

use muster_eventlog::StoredEvent;
use muster_schemas::events::{
    AbortCause, Action, ClosedState, EraseCause, OperationRequested, RefusalCause, RunReport,
    Upload,
};
use muster_schemas::{Event, Position, RunState, StreamVersion, Timestamp, run};
use serde::{Deserialize, Serialize};

/// The state of an operation in the log, without its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// The request; absent only before it.
    pub requested: Option<OperationRequested>,
    /// The actor that requested it.
    pub actor: String,
    /// Time of the request.
    pub requested_at: Timestamp,
    /// Position of the request.
    pub created_position: Position,
    /// Whether it is paused, so that no further run starts.
    pub paused: bool,
    /// Cause for which it was aborted, so that no further run starts.
    pub aborted: Option<AbortCause>,
    /// Version of its stream.
    pub version: StreamVersion,
}

impl Operation {
    /// Applies an event of its stream.
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
    /// Returns the requested file of an upload; `None` for other actions.
    #[must_use]
    pub fn upload(&self) -> Option<&Upload> {
        match self.requested.as_ref().map(|requested| &requested.action) {
            Some(Action::Upload(upload)) => Some(upload),
            _ => None,
        }
    }
}

/// The erasure of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Cause of the erasure.
    pub cause: EraseCause,
    /// Time of the erasure.
    pub at: Timestamp,
}

/// A failure of the server to store what a device sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// Number of bytes that the server had.
    pub bytes: u64,
    /// Reason of the failure.
    pub reason: String,
}

/// The server's decision to stop waiting for a run's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// State that the run counts as.
    pub state: ClosedState,
    /// Reason of the decision.
    pub reason: String,
    /// Time of the decision.
    pub at: Timestamp,
}

/// The state of a run in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// State of the run.
    pub state: RunState,
    /// Time of the request.
    pub requested_at: Timestamp,
    /// Time at which its newest order was signed.
    pub dispatched_at: Option<Timestamp>,
    /// Time at which the device accepted it, by the device's clock.
    pub accepted_at: Option<Timestamp>,
    /// Time at which its program started, by the device's clock.
    pub started_at: Option<Timestamp>,
    /// Time at which its end was recorded in the log.
    pub ended_at: Option<Timestamp>,
    /// Process id.
    pub pid: Option<u32>,
    /// User that the program runs as.
    pub user: Option<String>,
    /// Time at which its cancellation was requested.
    pub cancel_requested_at: Option<Timestamp>,
    /// The device's report at its end.
    pub report: Option<RunReport>,
    /// Cause and reason for which the device rejected it.
    pub refused: Option<(RefusalCause, String)>,
    /// The server's decision to stop waiting for it.
    pub closed: Option<Closed>,
    /// The erasure of an upload's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<Erased>,
    /// The last failure of the server to store an upload's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
    /// Whether the device's report arrived after the server had stopped waiting for it.
    pub late: bool,
    /// Version of its stream.
    pub version: StreamVersion,
}

impl Run {
    /// Applies an event of the run's stream, or one of its device's.
    pub fn evolve(&mut self, stored: &StoredEvent, event: &Event) {
        let at = stored.recorded_at;
        let before = self.state;
        self.state = before.next(event);
        if let Some(end) = run::device_report(event).filter(|report| report.state.is_final()) {
            self.end(end.report, at);
        }
        match event {
            Event::RunRequested(_) => self.requested_at = at,
            Event::RunDispatched(_) => {
                self.dispatched_at = Some(at);
            }
            Event::RunCancelRequested(_) => self.cancel_requested_at = Some(at),
            Event::RunClosed(closed) => {
                // A result that the device reported takes precedence.
                if !before.is_final() {
                    self.ended_at = Some(at);
                }
                let (state, reason) = (closed.state, closed.reason.clone());
                self.closed = Some(Closed { state, reason, at });
            }
            Event::RunAccepted(_) => {
                self.accepted_at = Some(stored.occurred_at);
            }
            Event::RunStarted(started) => {
                self.started_at = Some(stored.occurred_at);
                self.pid = started.pid;
                self.user.clone_from(&started.user);
            }
            Event::RunRejected(event) => {
                self.refused = Some((event.cause, event.reason.clone()));
            }
            Event::UploadErased(event) => {
                self.erased.get_or_insert(Erased { cause: event.cause, at });
            }
            Event::UploadStalled(event) => {
                self.stalled = Some(Stalled { bytes: event.bytes, reason: event.reason.clone() });
            }
            _ => {}
        }
        if matches!(stored.stream, muster_schemas::StreamName::Run(..)) {
            self.version = stored.stream_version;
        }
    }

    fn end(&mut self, report: Option<&RunReport>, at: Timestamp) {
        self.late = self.closed.is_some();
        self.ended_at = Some(at);
        self.report = report.cloned();
        if let Some(started) = report.and_then(|report| report.started_at) {
            self.started_at.get_or_insert(started);
        }
    }

    /// Returns the duration of its program, by the device's clock.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        let report = self.report.as_ref()?;
        Some(report.ended_at?.since(report.started_at?))
    }

    /// Returns the reason for which it did not succeed; the same text for the same reason.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if !self.state.is_final() || self.state == RunState::Succeeded {
            return None;
        }
        let report = self.report.as_ref();
        let closed = self.closed.as_ref().filter(|_| report.is_none());
        let text = match (&self.refused, report, closed) {
            (Some((_, reason)), _, _) => reason.clone(),
            (None, Some(RunReport { problem: Some(problem), .. }), _) => problem.clone(),
            (None, Some(RunReport { signal: Some(signal), .. }), _) => format!("signal {signal}"),
            (None, Some(RunReport { exit_code: Some(code), .. }), _) => format!("exit code {code}"),
            (None, _, Some(closed)) => closed.reason.clone(),
            _ => String::new(),
        };
        let state = self.state.as_str();
        Some(if text.is_empty() { state.to_owned() } else { format!("{state}: {text}") })
    }
}
