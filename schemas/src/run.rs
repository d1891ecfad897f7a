//! The life of a run: its states, and how events change them. Deciders, the dispatcher, projections
//! and clients share it.
//!
//! ```text
//! requested ──▶ dispatched ──▶ accepted ──▶ running ──▶ succeeded, failed, timed_out, canceled,
//!     │              │             │           │        rejected, expired, unknown
//!     └──────────────┴─────────────┴───────────┘  RunClosed: the server stops waiting
//! ```
//!
//! A device's report of the end takes precedence over the server's `RunClosed`, also if it arrives
//! later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::events::{
    ClosedState, DownloadLinkMade, Event, OperationAborted, OperationPaused, OperationRequested,
    OperationResumed, RunAccepted, RunCancelRequested, RunCanceled, RunClosed, RunDispatched,
    RunExpired, RunFailed, RunInterrupted, RunRejected, RunReport, RunRequested, RunStarted,
    RunSucceeded, RunTimedOut, UploadErased, UploadStalled,
};
use crate::ids::OperationId;

/// State of a run. The states of a run that has not ended are in their order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The run waits for a slot or for its device.
    #[default]
    Requested,
    /// The order is sent repeatedly until the device responds.
    Dispatched,
    /// The order is in the device's journal.
    Accepted,
    /// Its program runs.
    Running,
    /// The run succeeded.
    Succeeded,
    /// Its program failed, or could not be started.
    Failed,
    /// The run exceeded its timeout.
    TimedOut,
    /// An operator canceled the run.
    Canceled,
    /// The run was not started in time.
    Expired,
    /// The device rejected the run.
    Rejected,
    /// The result is unknown.
    Unknown,
}

/// A text is not the name of a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a state of a run")]
pub struct UnknownRunState(pub String);

impl RunState {
    /// All states.
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

    /// Its name, in the API and in tables.
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

    /// Whether the run has ended.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Requested | Self::Dispatched | Self::Accepted | Self::Running)
    }

    /// The state after an event of the run's stream, or a device's event about it.
    #[must_use]
    pub fn next(self, event: &Event) -> Self {
        match event {
            Event::RunDispatched(_) => self.advance(Self::Dispatched),
            Event::RunClosed(closed) => self.advance(closed.state.into()),
            event => match device_report(event) {
                Some(reported) if reported.state.is_final() => reported.state,
                Some(reported) => self.advance(reported.state),
                None => self,
            },
        }
    }

    /// A later state. An order that is signed again does not undo what the device has reported, and
    /// an end is final.
    fn advance(self, to: Self) -> Self {
        if self.is_final() { self } else { self.max(to) }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RunState {
    type Err = UnknownRunState;

    fn from_str(text: &str) -> Result<Self, UnknownRunState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownRunState(text.chars().take(40).collect()))
    }
}

impl From<ClosedState> for RunState {
    fn from(state: ClosedState) -> Self {
        match state {
            ClosedState::Expired => Self::Expired,
            ClosedState::TimedOut => Self::TimedOut,
            ClosedState::Canceled => Self::Canceled,
            ClosedState::Unknown => Self::Unknown,
        }
    }
}

/// What a device reports about a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceReport<'a> {
    /// Operation of the run.
    pub operation: OperationId,
    /// State that the run is in.
    pub state: RunState,
    /// Report at the end of a run that the device had accepted.
    pub report: Option<&'a RunReport>,
}

macro_rules! device_reports {
    ($( $kinds:ident: $doc:literal { $( $kind:ident => $state:ident, |$event:ident| $operation:expr, $report:expr; )+ } )+) => {
        $(
            #[doc = $doc]
            pub const $kinds: &[&str] = &[$( $kind::TYPE ),+];
        )+

        /// Returns what a device's event reports about a run; `None` for other events.
        #[must_use]
        pub const fn device_report(event: &Event) -> Option<DeviceReport<'_>> {
            match event {
                $( $( Event::$kind($event) => Some(DeviceReport {
                    operation: $operation,
                    state: RunState::$state,
                    report: $report,
                }), )+ )+
                _ => None,
            }
        }
    };
}

device_reports! {
    PROGRESS_TYPES: "Types of a device's events about a run that has not ended." {
        RunAccepted => Accepted, |event| event.operation, None;
        RunStarted => Running, |event| event.operation, None;
    }
    END_TYPES: "Types of a device's events about the end of a run." {
        RunSucceeded => Succeeded, |event| event.0.operation, Some(&event.0);
        RunFailed => Failed, |event| event.0.operation, Some(&event.0);
        RunTimedOut => TimedOut, |event| event.0.operation, Some(&event.0);
        RunCanceled => Canceled, |event| event.0.operation, Some(&event.0);
        RunInterrupted => Unknown, |event| event.0.operation, Some(&event.0);
        RunRejected => Rejected, |event| event.operation, None;
        RunExpired => Expired, |event| event.operation, None;
    }
}

/// Types of the events of an operation's stream.
pub const OPERATION_TYPES: &[&str] = &[
    OperationRequested::TYPE,
    OperationPaused::TYPE,
    OperationResumed::TYPE,
    OperationAborted::TYPE,
];

/// Types of the events of a run's stream: the server's decisions.
pub const SERVER_TYPES: &[&str] = &[
    RunRequested::TYPE,
    RunDispatched::TYPE,
    RunCancelRequested::TYPE,
    RunClosed::TYPE,
    UploadErased::TYPE,
    UploadStalled::TYPE,
    DownloadLinkMade::TYPE,
];

/// Returns the types of all events about operations and their runs.
#[must_use]
pub fn all_types() -> Vec<&'static str> {
    [OPERATION_TYPES, SERVER_TYPES, PROGRESS_TYPES, END_TYPES].concat()
}

#[cfg(test)]
mod tests {
    use crate::numbers::Epoch;
    use proptest::prelude::*;

    use super::*;
    use crate::codec;
    use crate::cose::Hash;
    use crate::events::{Author, OutputSummary, author};

    fn operation() -> OperationId {
        "0198c0de-7002-7abc-8def-0123456789ab".parse().unwrap()
    }

    fn report() -> RunReport {
        RunReport {
            operation: operation(),
            started_at: None,
            ended_at: None,
            exit_code: None,
            signal: None,
            problem: None,
            user_us: 0,
            system_us: 0,
            peak_memory: 0,
            stdout: OutputSummary::default(),
            stderr: OutputSummary::default(),
            file: None,
        }
    }

    fn closed(state: ClosedState) -> Event {
        RunClosed { state, reason: String::new() }.into()
    }

    /// Events that change the state.
    fn events() -> Vec<Event> {
        vec![
            RunRequested {}.into(),
            RunDispatched { epoch: Epoch::FIRST, order: Vec::new() }.into(),
            RunCancelRequested {}.into(),
            closed(ClosedState::Expired),
            closed(ClosedState::Unknown),
            RunAccepted { operation: operation(), order: Hash::ZERO }.into(),
            RunStarted { operation: operation(), pid: None, user: None }.into(),
            RunSucceeded(report()).into(),
            RunInterrupted(report()).into(),
            RunExpired { operation: operation() }.into(),
        ]
    }

    fn after(events: &[Event]) -> RunState {
        events.iter().fold(RunState::default(), RunState::next)
    }

    #[test]
    fn a_run_goes_through_its_states() {
        let [_, dispatched, cancel, expired, unknown, accepted, started, succeeded, ..] =
            &events()[..]
        else {
            panic!("too few events");
        };
        let state = |events: &[&Event]| after(&events.iter().copied().cloned().collect::<Vec<_>>());
        assert_eq!(state(&[]), RunState::Requested);
        assert_eq!(state(&[dispatched, cancel]), RunState::Dispatched);
        assert_eq!(state(&[dispatched, accepted, dispatched]), RunState::Accepted);
        assert_eq!(state(&[dispatched, started, accepted]), RunState::Running);
        assert_eq!(state(&[dispatched, accepted, started, succeeded]), RunState::Succeeded);
        assert_eq!(state(&[dispatched, expired, unknown]), RunState::Expired);
        // A device's report takes precedence, before and after the server has closed the run.
        assert_eq!(state(&[dispatched, expired, succeeded]), RunState::Succeeded);
        assert_eq!(state(&[dispatched, succeeded, expired, started]), RunState::Succeeded);
    }

    #[test]
    fn names_are_read_back_and_others_are_an_error() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(codec::encode(&state), codec::encode(&state.as_str()));
        }
        assert_eq!("Running".parse::<RunState>(), Err(UnknownRunState("Running".into())));
    }

    #[test]
    fn every_type_is_in_the_group_of_its_author() {
        let all = all_types();
        for (kind, _) in Event::TYPES {
            let prefixes = ["Run", "Operation", "Upload", "DownloadLink"];
            let is_about_a_run = prefixes.iter().any(|prefix| kind.starts_with(prefix));
            assert_eq!(all.contains(kind), is_about_a_run, "{kind}");
        }
        for kind in [PROGRESS_TYPES, END_TYPES].concat() {
            assert_eq!(author(kind), Some(Author::Device), "{kind}");
        }
        for kind in [OPERATION_TYPES, SERVER_TYPES].concat() {
            assert_eq!(author(kind), Some(Author::Server), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn an_end_is_final_and_open_states_only_advance(
            order in proptest::collection::vec(0..10_usize, 0..20),
        ) {
            let events = events();
            let mut state = RunState::default();
            for at in order {
                let next = state.next(&events[at]);
                if state.is_final() {
                    prop_assert!(next.is_final());
                } else if !next.is_final() {
                    prop_assert!(next >= state);
                }
                // The same event again changes nothing.
                prop_assert_eq!(next.next(&events[at]), next);
                state = next;
            }
        }
    }
}
