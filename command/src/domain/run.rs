//! The run: one device's share of an operation, as far as the server decides about it.
//!
//! What the device says of it stands in the device's own reports; the dispatcher knows both, and
//! asks here only for what the server may still do.

use muster_schemas::Event;
use muster_schemas::events::{
    ClosedState, RunCancelRequested, RunClosed, RunDispatched, RunRequested,
};

use super::{Decider, Decision, Rejection};

/// What the server has decided about a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Was it asked for?
    pub requested: bool,
    /// The epoch that its newest order is for.
    pub dispatched: Option<u64>,
    /// Is it to be ended?
    pub canceled: bool,
    /// Does the server no longer wait for it?
    pub closed: bool,
}

/// What can be asked of a run.
#[derive(Clone, Debug)]
pub enum RunCommand {
    /// A device gets its share.
    Request,
    /// The order was signed for this epoch of the device.
    Dispatch {
        /// The epoch.
        epoch: u64,
        /// The sealed order.
        order: Vec<u8>,
    },
    /// It is to be ended.
    Cancel,
    /// It is not waited for any more.
    Close {
        /// What it counts as.
        state: ClosedState,
        /// Why.
        reason: String,
    },
}

impl Decider for Run {
    type Command = RunCommand;

    fn decide(&self, command: RunCommand) -> Decision {
        if let RunCommand::Request = command {
            return Ok(if self.requested { Vec::new() } else { vec![RunRequested {}.into()] });
        }
        if !self.requested {
            return Err(Rejection::NotFound("run"));
        }
        if self.closed {
            return Ok(Vec::new());
        }
        Ok(match command {
            // An epoch gets one order; another epoch of the device, another one.
            RunCommand::Dispatch { epoch, .. }
                if self.canceled || self.dispatched.is_some_and(|known| known >= epoch) =>
            {
                Vec::new()
            }
            RunCommand::Dispatch { epoch, order } => vec![RunDispatched { epoch, order }.into()],
            // What no device has is over at once.
            RunCommand::Cancel if self.dispatched.is_none() => {
                let reason = "it was canceled before it was sent".to_owned();
                vec![
                    RunCancelRequested {}.into(),
                    RunClosed { state: ClosedState::Canceled, reason }.into(),
                ]
            }
            RunCommand::Cancel if self.canceled => Vec::new(),
            RunCommand::Cancel => vec![RunCancelRequested {}.into()],
            RunCommand::Close { state, reason } => vec![RunClosed { state, reason }.into()],
            RunCommand::Request => Vec::new(),
        })
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::RunRequested(_) => self.requested = true,
            Event::RunDispatched(event) => self.dispatched = Some(event.epoch),
            Event::RunCancelRequested(_) => self.canceled = true,
            Event::RunClosed(_) => self.closed = true,
            _ => {}
        }
        self
    }
}
