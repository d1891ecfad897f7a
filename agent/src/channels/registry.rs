//! The open sessions of this device by their ids, and the number of channels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_schemas::SessionId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::options::{ChannelOptions, MAX_CHANNELS, MAX_SESSIONS};
use super::session_ends::SessionEnds;
use super::session_request::SessionRequest;
use crate::outbox::Recorder;
use crate::policy::{Policy, PolicyError};
use crate::store::Store;

/// Timeout for ending all sessions when the agent stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1500);
/// Time for sending the last messages.
const FLUSH_TIME: Duration = Duration::from_millis(50);
/// Maximum number of requests that wait for a session.
const MAX_QUEUED_REQUESTS: usize = 8;

/// The channels and sessions of a running agent.
#[derive(Debug)]
pub(crate) struct Channels {
    policy: PathBuf,
    pub(super) options: ChannelOptions,
    sessions: Mutex<BTreeMap<SessionId, SessionHandle>>,
    pub(crate) ends: SessionEnds,
    permits: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    /// Canceled when the agent stops.
    pub(super) stop: CancellationToken,
}

/// The handle of a session.
#[derive(Clone, Debug)]
pub(super) struct SessionHandle {
    /// User of the session's program.
    pub(super) user: String,
    pub(super) requests: mpsc::Sender<SessionRequest>,
}

/// The reason why a session cannot be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReserveError {
    /// The maximum number of sessions is reached.
    Busy,
    /// A session with this id exists.
    AlreadyExists,
}

impl Channels {
    pub(crate) fn new(
        policy: PathBuf,
        options: ChannelOptions,
        store: Arc<Store>,
        recorder: Recorder,
    ) -> Arc<Self> {
        Arc::new(Self {
            policy,
            options,
            sessions: Mutex::default(),
            ends: SessionEnds::new(store, recorder),
            permits: Arc::new(Semaphore::new(MAX_CHANNELS)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, SessionHandle>> {
        self.sessions.lock()
    }

    /// Reads the current policy.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub(super) fn policy(&self) -> Result<Policy, PolicyError> {
        Policy::load(&self.policy)
    }

    /// Path of the policy file.
    pub(super) fn policy_file(&self) -> &Path {
        &self.policy
    }

    /// Returns a permit for one more channel, if one is available.
    pub(super) fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    pub(super) fn find(&self, id: SessionId) -> Option<SessionHandle> {
        self.sessions().get(&id).cloned()
    }

    /// Reserves a slot for a new session until it is dropped; also returns the receiver of the
    /// session's requests.
    pub(super) fn reserve(
        self: &Arc<Self>,
        id: SessionId,
        user: &str,
    ) -> Result<(SessionSlot, mpsc::Receiver<SessionRequest>), ReserveError> {
        let mut sessions = self.sessions();
        if sessions.contains_key(&id) {
            return Err(ReserveError::AlreadyExists);
        }
        if sessions.len() >= MAX_SESSIONS {
            return Err(ReserveError::Busy);
        }
        let (asks, requests) = mpsc::channel(MAX_QUEUED_REQUESTS);
        sessions.insert(id, SessionHandle { user: user.to_owned(), requests: asks });
        drop(sessions);
        Ok((SessionSlot { id, channels: Arc::clone(self) }, requests))
    }

    /// Ends all sessions and channels, when the agent stops.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if self.tasks.is_empty() {
            return;
        }
        if timeout(SHUTDOWN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some sessions have not ended in time");
        }
        sleep(FLUSH_TIME).await;
    }
}

/// A session's slot; dropping it removes the session.
#[derive(Debug)]
pub(super) struct SessionSlot {
    pub(super) id: SessionId,
    channels: Arc<Channels>,
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        self.channels.sessions().remove(&self.id);
    }
}
