//! Requests to a session from other channels.

use muster_channel::Channel;
use muster_schemas::wire::TerminalSize;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::reason;

/// A request to a session.
#[derive(Debug)]
pub(super) enum SessionRequest {
    /// Attaches another channel.
    Attach(Attach),
    /// Ends the session; the sender is notified when it has ended.
    End(oneshot::Sender<()>),
}

/// A channel that attaches.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) channel: Channel,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) is_read_only: bool,
    pub(super) size: TerminalSize,
}

impl SessionRequest {
    /// Declines a request because the session has ended.
    pub(super) async fn decline(self) {
        if let Self::Attach(attach) = self {
            attach.channel.sender.close(reason::SESSION_ENDED).await;
        }
    }
}
