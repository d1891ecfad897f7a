//! All bridges of this process: they end with it, and what is to be said of them is said.

use std::time::Duration;

use muster_schemas::Event;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::audit::Session;
use crate::service::Service;

/// When the process stops, its bridges have so long to write down how they ended.
const LAST: Duration = Duration::from_secs(5);

/// The bridges that are open.
#[derive(Debug, Default)]
pub struct Bridges {
    /// The process stops.
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
}

impl Bridges {
    /// Follows a bridge, so that it is waited for.
    pub fn track<W: Future<Output = ()>>(&self, work: W) -> impl Future<Output = ()> + use<W> {
        self.tasks.track_future(work)
    }
}

impl Service {
    /// Waits for `stop`, then ends all bridges: recordings are written to their end, and the log has
    /// who is not attached any more.
    pub async fn keep_bridges(&self, stop: CancellationToken) {
        stop.cancelled().await;
        self.bridges.stop.cancel();
        self.bridges.tasks.close();
        if timeout(LAST, self.bridges.tasks.wait()).await.is_err() {
            tracing::warn!(open = self.bridges.tasks.len(), "not all bridges have ended");
        }
    }
}

/// A session that was asked for and is not carried yet. A client that leaves meanwhile leaves this,
/// and it stands in the log.
#[derive(Debug)]
pub struct Opening {
    session: Session,
    left: Option<Event>,
}

impl Opening {
    /// `left`: what stands in the log when nothing comes of it.
    pub fn new(session: &Session, left: impl Into<Event>) -> Self {
        Self { session: session.clone(), left: Some(left.into()) }
    }

    /// Something came of it, or it is known why not.
    pub fn done(&mut self) {
        self.left = None;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            let session = self.session.clone();
            tokio::spawn(async move { session.note(left).await });
        }
    }
}
