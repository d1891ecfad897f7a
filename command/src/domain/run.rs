//! The run: one device's part of an operation, as far as the server decides about it.
//!
//! The device's own events report how the run proceeds. The dispatcher reads both, and sends
//! commands here only for what the server may still decide.

use muster_schemas::events::{
    ClosedState, DownloadLinkMade, EraseCause, RunCancelRequested, RunClosed, RunDispatched,
    RunRequested, UploadErased, UploadStalled,
};
use muster_schemas::{Epoch, Event, Hash, RunState, Timestamp};

use super::{Conflict, Decider, Decision, Rejection};

/// Decisions of the server about a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// State of the run, as far as its own stream determines it; `None` if it was never requested.
    pub state: Option<RunState>,
    /// Epoch of its newest order.
    pub dispatched_epoch: Option<Epoch>,
    /// Whether its cancellation was requested.
    pub is_canceled: bool,
    /// Whether its file was erased, and further pieces are refused.
    pub is_erased: bool,
    /// Number of bytes at which the file stalled last because the server could not store more.
    pub stalled_at: Option<u64>,
}

/// Commands on a run.
#[derive(Clone, Debug)]
pub enum RunCommand {
    /// Request the run of a device.
    Request,
    /// Record the order that was signed for this epoch of the device.
    Dispatch {
        /// The epoch.
        epoch: Epoch,
        /// The signed order.
        order: Vec<u8>,
    },
    /// Cancel the run.
    Cancel,
    /// Erase its file, and refuse further pieces.
    Erase(EraseCause),
    /// Record that the server cannot store what the device sends.
    Stall {
        /// Number of bytes that the server has.
        bytes: u64,
        /// Reason.
        reason: String,
    },
    /// Create a download link for its file.
    CreateLink {
        /// SHA-256 of the link's secret.
        secret: Hash,
        /// Time at which the link expires.
        expires_at: Timestamp,
    },
    /// Close it without a report of the device.
    Close {
        /// State in which it is closed.
        state: ClosedState,
        /// Reason.
        reason: String,
    },
}

impl Decider for Run {
    type Command = RunCommand;

    fn decide(&self, command: RunCommand) -> Decision {
        if let RunCommand::Request = command {
            return Ok(if self.state.is_some() {
                Vec::new()
            } else {
                vec![RunRequested {}.into()]
            });
        }
        let Some(state) = self.state else { return Err(Rejection::NotFound("run")) };
        // Commands about a file are allowed after the run's end.
        if let Some(decision) = self.decide_file(&command) {
            return decision;
        }
        if state.is_final() {
            return Ok(Vec::new());
        }
        Ok(match command {
            // Each epoch of the device gets one order.
            RunCommand::Dispatch { epoch, .. }
                if self.is_canceled
                    || self.dispatched_epoch.is_some_and(|known| known >= epoch) =>
            {
                Vec::new()
            }
            RunCommand::Dispatch { epoch, order } => vec![RunDispatched { epoch, order }.into()],
            // A run that no device has received ends immediately.
            RunCommand::Cancel if self.dispatched_epoch.is_none() => {
                let reason = "it was canceled before it was sent".to_owned();
                vec![
                    RunCancelRequested {}.into(),
                    RunClosed { state: ClosedState::Canceled, reason }.into(),
                ]
            }
            RunCommand::Cancel if self.is_canceled => Vec::new(),
            RunCommand::Cancel => vec![RunCancelRequested {}.into()],
            RunCommand::Close { state, reason } => vec![RunClosed { state, reason }.into()],
            RunCommand::Request
            | RunCommand::Erase(_)
            | RunCommand::Stall { .. }
            | RunCommand::CreateLink { .. } => Vec::new(),
        })
    }

    fn evolve(mut self, event: &Event) -> Self {
        self.state = match event {
            Event::RunRequested(_) => Some(self.state.unwrap_or_default()),
            event => self.state.map(|state| state.next(event)),
        };
        match event {
            Event::RunDispatched(event) => self.dispatched_epoch = Some(event.epoch),
            Event::RunCancelRequested(_) => self.is_canceled = true,
            Event::UploadErased(_) => self.is_erased = true,
            Event::UploadStalled(event) => self.stalled_at = Some(event.bytes),
            _ => {}
        }
        self
    }
}

impl Run {
    /// Decides commands about the file of an upload; `None` for other commands.
    fn decide_file(&self, command: &RunCommand) -> Option<Decision> {
        Some(match command {
            RunCommand::Erase(_) | RunCommand::Stall { .. } if self.is_erased => Ok(Vec::new()),
            RunCommand::Erase(cause) => Ok(vec![UploadErased { cause: *cause }.into()]),
            RunCommand::Stall { bytes, .. } if self.stalled_at == Some(*bytes) => Ok(Vec::new()),
            RunCommand::Stall { bytes, reason } => {
                Ok(vec![UploadStalled { bytes: *bytes, reason: reason.clone() }.into()])
            }
            RunCommand::CreateLink { .. } if self.is_erased => Err(Conflict::FileErased.into()),
            RunCommand::CreateLink { secret, expires_at } => {
                let (secret, expires_at) = (*secret, *expires_at);
                Ok(vec![DownloadLinkMade { secret, expires_at }.into()])
            }
            _ => return None,
        })
    }
}
