//! What is open on this device: sessions by their ids, and how many channels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_schemas::SessionId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ends::Ends;
use super::options::{ChannelOptions, MOST_CHANNELS, MOST_SESSIONS};
use super::session::Ask;
use crate::operations::Policy;

/// When the agent stops, everything is over after this.
const LAST: Duration = Duration::from_millis(1500);
/// What was said last needs so long to leave.
const FAREWELL: Duration = Duration::from_millis(50);
/// Asks that wait for a session.
const ASKS: usize = 8;

/// The channels and sessions of a running agent.
#[derive(Debug)]
pub(crate) struct Channels {
    policy: PathBuf,
    pub(super) options: ChannelOptions,
    sessions: Mutex<BTreeMap<SessionId, Known>>,
    /// Ends that are to be told.
    pub(super) ends: Ends,
    places: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    /// The agent stops.
    pub(super) stop: CancellationToken,
}

/// A session, for those who want something of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// As whom it runs.
    pub(super) user: String,
    pub(super) asks: mpsc::Sender<Ask>,
}

/// Why a session has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// There are as many as may be.
    Busy,
    /// There is one with this id.
    Taken,
}

impl Channels {
    pub(crate) fn new(policy: PathBuf, options: ChannelOptions) -> Arc<Self> {
        Arc::new(Self {
            policy,
            options,
            sessions: Mutex::default(),
            ends: Ends::default(),
            places: Arc::new(Semaphore::new(MOST_CHANNELS)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Known>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy as it is now.
    ///
    /// # Errors
    /// When it cannot be read or understood, in words.
    pub(super) fn policy(&self) -> Result<Policy, String> {
        Policy::load(&self.policy)
    }

    /// Where the policy is.
    pub(super) fn policy_file(&self) -> &Path {
        &self.policy
    }

    /// A place for one more channel, for as long as it is held.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    pub(super) fn find(&self, id: SessionId) -> Option<Known> {
        self.sessions().get(&id).cloned()
    }

    /// A place for a new session, for as long as it is held; and what is asked of the session.
    pub(super) fn reserve(
        self: &Arc<Self>,
        id: SessionId,
        user: &str,
    ) -> Result<(Reserved, mpsc::Receiver<Ask>), NoPlace> {
        let mut sessions = self.sessions();
        if sessions.contains_key(&id) {
            return Err(NoPlace::Taken);
        }
        if sessions.len() >= MOST_SESSIONS {
            return Err(NoPlace::Busy);
        }
        let (asks, asked) = mpsc::channel(ASKS);
        sessions.insert(id, Known { user: user.to_owned(), asks });
        drop(sessions);
        Ok((Reserved { id, channels: Arc::clone(self) }, asked))
    }

    /// Ends all sessions and channels; the agent stops.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if self.tasks.is_empty() {
            return;
        }
        if timeout(LAST, self.tasks.wait()).await.is_err() {
            tracing::warn!("not all sessions have ended");
        }
        sleep(FAREWELL).await;
    }
}

/// A session's place; dropped, there is no such session any more.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) id: SessionId,
    channels: Arc<Channels>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.channels.sessions().remove(&self.id);
    }
}
