//! The registry of the kinds of operations: how the agent treats each of them.
//!
//! Every rule that depends on the kind is a field here, so that a new kind must set all of them.
//! The code that performs a run is in the module of its kind; `runner` calls it. The owner's rules
//! are in `policy`, which is below this module.

use muster_schemas::events::{Action, Exec};

/// Runs wait only for other runs in the same lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Not limited: the action is immediate, or must not be delayed by programs that hang.
    Free,
    /// Programs: at most `runs.at_once` of them run concurrently.
    Programs,
    /// Uploads, which may take hours.
    Files,
}

/// What becomes of a run that has started when the agent's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterRestart {
    /// No agent process observed its end.
    Interrupted,
    /// It has succeeded: it was to end the agent.
    Succeeded,
    /// It has succeeded if the machine has restarted; otherwise it continues.
    SucceededIfRebooted,
    /// It continues.
    Continues,
}

/// How the agent treats a kind of operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct OperationKind<'a> {
    pub(super) lane: Lane,
    pub(super) after_restart: AfterRestart,
    /// Whether the run ends the agent or restarts the machine.
    pub(super) ends_agent: bool,
    /// Whether the journal may record the start together with the acceptance.
    pub(super) can_start_on_acceptance: bool,
    /// The program that runs with the order's private input.
    pub(super) program: Option<&'a Exec>,
}

impl<'a> OperationKind<'a> {
    pub(super) const fn of(action: &'a Action) -> Self {
        match action {
            Action::Exec(exec) => Self {
                lane: Lane::Programs,
                after_restart: AfterRestart::Interrupted,
                ends_agent: false,
                can_start_on_acceptance: true,
                program: Some(exec),
            },
            Action::Diagnostics => Self {
                lane: Lane::Programs,
                after_restart: AfterRestart::Interrupted,
                ends_agent: false,
                can_start_on_acceptance: true,
                program: None,
            },
            Action::Upload(_) => Self {
                lane: Lane::Files,
                after_restart: AfterRestart::Continues,
                ends_agent: false,
                can_start_on_acceptance: false,
                program: None,
            },
            Action::RestartAgent => Self {
                lane: Lane::Free,
                after_restart: AfterRestart::Succeeded,
                ends_agent: true,
                can_start_on_acceptance: false,
                program: None,
            },
            Action::Reboot => Self {
                lane: Lane::Free,
                after_restart: AfterRestart::SucceededIfRebooted,
                ends_agent: true,
                can_start_on_acceptance: false,
                program: None,
            },
            Action::LogLevel { .. } => Self {
                lane: Lane::Free,
                after_restart: AfterRestart::Interrupted,
                ends_agent: false,
                can_start_on_acceptance: false,
                program: None,
            },
        }
    }
}
