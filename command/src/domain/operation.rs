//! The operation: an action that devices run; it can be paused, resumed and aborted.

use muster_schemas::Event;
use muster_schemas::events::{
    AbortCause, OperationAborted, OperationPaused, OperationRequested, OperationResumed,
    RequestedTarget,
};

use super::kinds::{self, invalid};
use super::{Conflict, Decider, Decision, Rejection};

/// State of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Its request; `None` when it does not exist.
    pub requested: Option<OperationRequested>,
    /// Whether no further run starts until it is resumed.
    pub is_paused: bool,
    /// Whether no further run starts at all.
    pub is_aborted: bool,
}

/// Commands on an operation.
#[derive(Clone, Debug)]
pub enum OperationCommand {
    /// Request the operation.
    Request(Box<OperationRequested>),
    /// Start no further run until it is resumed.
    Pause,
    /// Start runs again.
    Resume,
    /// Start no further run, and cancel those that have started.
    Abort(AbortCause),
}

impl Decider for Operation {
    type Command = OperationCommand;

    fn decide(&self, command: OperationCommand) -> Decision {
        if let OperationCommand::Request(requested) = command {
            if self.requested.is_some() {
                return Err(Conflict::OperationExists.into());
            }
            check(&requested)?;
            return Ok(vec![(*requested).into()]);
        }
        if self.requested.is_none() {
            return Err(Rejection::NotFound("operation"));
        }
        let once = |done: bool, event: Event| if done { Vec::new() } else { vec![event] };
        match command {
            OperationCommand::Request(_) => Ok(Vec::new()),
            OperationCommand::Abort(cause) => {
                Ok(once(self.is_aborted, OperationAborted { cause }.into()))
            }
            OperationCommand::Pause | OperationCommand::Resume if self.is_aborted => {
                Err(Conflict::OperationAborted.into())
            }
            OperationCommand::Pause => Ok(once(self.is_paused, OperationPaused {}.into())),
            OperationCommand::Resume => Ok(once(!self.is_paused, OperationResumed {}.into())),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::OperationRequested(event) => self.requested = Some(event.clone()),
            Event::OperationPaused(_) => self.is_paused = true,
            Event::OperationResumed(_) => self.is_paused = false,
            Event::OperationAborted(_) => self.is_aborted = true,
            _ => {}
        }
        self
    }
}

fn check(requested: &OperationRequested) -> Result<(), Rejection> {
    if requested.devices == 0 {
        let target = match &requested.target {
            RequestedTarget::Devices(devices) => devices.join(","),
            RequestedTarget::Selector(text) | RequestedTarget::Text(text) => text.clone(),
        };
        return Err(invalid("target", "selects no device", target));
    }
    let kind = kinds::of(&requested.action);
    let longest = kind.timeouts().max_ms();
    if !(1..=longest).contains(&requested.timeout_ms) {
        let (longest, value) = (longest / 1_000, (requested.timeout_ms / 1_000).to_string());
        return Err(invalid("timeout_seconds", format!("must be from 1 to {longest}"), value));
    }
    if requested.at_once == 0 {
        return Err(invalid("max_concurrent_devices", "must be at least 1", "0"));
    }
    if requested.stop_after == Some(0) {
        return Err(invalid("max_failures", "must be at least 1", "0"));
    }
    kind.check()
}
