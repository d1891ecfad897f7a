//! The run: one device's share of an operation, as far as the server decides about it.
//!
//! What the device says of it stands in the device's own reports; the dispatcher knows both, and
//! asks here only for what the server may still do.

use muster_schemas::events::{
    ClosedState, DownloadLinkMade, EraseCause, RunCancelRequested, RunClosed, RunDispatched,
    RunRequested, UploadErased, UploadStalled,
};
use muster_schemas::{Event, Hash, Timestamp};

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
    /// Is the file that it brought, or brings, not kept?
    pub erased: bool,
    /// Where the file stopped last because the server could not keep it.
    pub stalled: Option<u64>,
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
    /// The file that it brought is not kept; one that it brings is not taken.
    Erase(EraseCause),
    /// The server cannot keep what its device sends.
    Stall {
        /// How many bytes the server has.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// A link by which the file can be downloaded.
    MakeLink {
        /// SHA-256 of its secret.
        secret: Hash,
        /// When it expires.
        expires_at: Timestamp,
    },
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
        // What becomes of a file is decided after the run's end, too.
        if let Some(decision) = self.decide_file(&command) {
            return decision;
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
            RunCommand::Request
            | RunCommand::Erase(_)
            | RunCommand::Stall { .. }
            | RunCommand::MakeLink { .. } => Vec::new(),
        })
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::RunRequested(_) => self.requested = true,
            Event::RunDispatched(event) => self.dispatched = Some(event.epoch),
            Event::RunCancelRequested(_) => self.canceled = true,
            Event::RunClosed(_) => self.closed = true,
            Event::UploadErased(_) => self.erased = true,
            Event::UploadStalled(event) => self.stalled = Some(event.bytes),
            _ => {}
        }
        self
    }
}

impl Run {
    /// Decides about the file of an upload; `None` when the command is about something else.
    fn decide_file(&self, command: &RunCommand) -> Option<Decision> {
        Some(match command {
            RunCommand::Erase(_) | RunCommand::Stall { .. } if self.erased => Ok(Vec::new()),
            RunCommand::Erase(cause) => Ok(vec![UploadErased { cause: *cause }.into()]),
            RunCommand::Stall { bytes, .. } if self.stalled == Some(*bytes) => Ok(Vec::new()),
            RunCommand::Stall { bytes, reason } => {
                Ok(vec![UploadStalled { bytes: *bytes, reason: reason.clone() }.into()])
            }
            RunCommand::MakeLink { .. } if self.erased => {
                Err(Rejection::Conflict("the file was erased; there is nothing to link to".into()))
            }
            RunCommand::MakeLink { secret, expires_at } => {
                let (secret, expires_at) = (*secret, *expires_at);
                Ok(vec![DownloadLinkMade { secret, expires_at }.into()])
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(commands: Vec<RunCommand>) -> Vec<&'static str> {
        let mut run = Run::default();
        let mut kinds = Vec::new();
        for command in commands {
            match run.decide(command) {
                Ok(events) => {
                    kinds.extend(events.iter().map(Event::kind));
                    run = events.iter().fold(run, Run::evolve);
                }
                Err(_) => kinds.push("no"),
            }
        }
        kinds
    }

    #[test]
    fn a_file_is_erased_once_and_not_linked_to_afterwards() {
        let link = || RunCommand::MakeLink { secret: Hash::ZERO, expires_at: Timestamp(1) };
        let stall = |bytes| RunCommand::Stall { bytes, reason: "full".into() };
        let erase = || RunCommand::Erase(EraseCause::Asked);
        let close = RunCommand::Close { state: ClosedState::TimedOut, reason: "late".into() };
        assert_eq!(kinds(vec![erase(), link(), stall(0)]), ["no", "no", "no"]);
        let commands = vec![
            RunCommand::Request,
            stall(0),
            stall(0),
            stall(7),
            close,
            link(),
            erase(),
            erase(),
            stall(9),
            link(),
        ];
        assert_eq!(
            kinds(commands),
            [
                "RunRequested",
                "UploadStalled",
                "UploadStalled",
                "RunClosed",
                "DownloadLinkMade",
                "UploadErased",
                "no"
            ]
        );
    }
}
