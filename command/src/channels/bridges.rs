//! All bridges of this process: they end with it, and what is to be said of them is said. Of those of
//! a process that was killed, another one says it.
//!
//! PostgreSQL has a row for each bridge, which its process keeps. One that has run out belongs to a
//! process that is not there any more, or could not say how the bridge ended.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_eventlog::{Bridge, StoredEvent};
use muster_schemas::Event;
use muster_schemas::events::{SessionDetached, SessionEnded};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::audit::Session;
use crate::service::{Service, ServiceError};

/// When the process stops, its bridges have so long to write down how they ended.
const LAST: Duration = Duration::from_secs(5);
/// Bridges are kept this often.
const BEAT: Duration = Duration::from_secs(3);
/// For so long they are kept. One that has run out is looked at for as long again: its process may
/// have been without PostgreSQL, as this one.
const LIFE: Duration = Duration::from_secs(10);
/// Bridges that are looked at at once.
const STRETCH: u32 = 200;
/// The right to speak for processes that are gone.
const REAPER: &str = "reap-bridges";
/// What is said of a bridge whose process is gone.
const KILLED: &str = "the server that carried it is gone";

/// The bridges that are open.
#[derive(Debug)]
pub struct Bridges {
    /// The process stops.
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
    process: Uuid,
    held: Mutex<BTreeSet<Uuid>>,
}

impl Default for Bridges {
    fn default() -> Self {
        Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            process: Uuid::new_v4(),
            held: Mutex::default(),
        }
    }
}

impl Bridges {
    /// Follows a bridge, so that it is waited for.
    pub fn track<W: Future<Output = ()>>(&self, work: W) -> impl Future<Output = ()> + use<W> {
        self.tasks.track_future(work)
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Keeps this process's bridges and speaks for those that nobody keeps, until `stop`; then
    /// ends all bridges: recordings are written to their end, and the log has who is not attached
    /// any more.
    pub async fn keep_bridges(&self, stop: CancellationToken) {
        let mut gone = Gone::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(BEAT) => {}
            }
            if let Err(error) = self.beat(&mut gone).await {
                tracing::debug!(%error, "bridges are not kept; trying again");
            }
        }
        self.bridges.stop.cancel();
        self.bridges.tasks.close();
        if timeout(LAST, self.bridges.tasks.wait()).await.is_err() {
            tracing::warn!(open = self.bridges.tasks.len(), "not all bridges have ended");
        }
    }

    async fn beat(&self, gone: &mut Gone) -> Result<(), ServiceError> {
        let held: Vec<Uuid> = self.bridges.held().iter().copied().collect();
        if !held.is_empty() {
            self.log.keep_bridges(&held, LIFE).await?;
        }
        let stale = self.log.stale_bridges(STRETCH).await?;
        let due = gone.due(&stale, Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let process = self.bridges.process;
        if self.log.acquire_lease(REAPER, process, LIFE * 3).await?.is_some() {
            let spoken = self.speak_for_all(&due).await;
            self.log.release_lease(REAPER, process).await?;
            spoken?;
        }
        Ok(())
    }

    async fn speak_for_all(&self, due: &BTreeSet<Uuid>) -> Result<(), ServiceError> {
        // Another one may have done some of it until now.
        for bridge in self.log.stale_bridges(STRETCH).await? {
            if !due.contains(&bridge.id) {
                continue;
            }
            let id = bridge.id;
            match self.speak_for(bridge).await {
                Ok(()) => self.log.drop_bridge(id).await?,
                Err(error) => {
                    tracing::warn!(bridge = %id, %error, "how a session stands is not in the log yet");
                }
            }
        }
        Ok(())
    }

    /// Writes down that a bridge is gone, unless that is known.
    async fn speak_for(&self, bridge: Bridge) -> Result<(), ServiceError> {
        let Bridge { project, device, session, is_shell, actor, .. } = bridge;
        let session = Session::new(self.clone(), project, device, session, actor);
        let stored = self.log.read_stream(&session.project, &session.stream()).await?;
        // Of those that are attached, each has a bridge. One that is too many is this one.
        if attached(&stored) < self.log.bridges_of(session.id).await? {
            return Ok(());
        }
        tracing::info!(session = %session.id, "a session's server is gone; that is noted");
        let reason = KILLED.to_owned();
        let event: Event = if is_shell {
            SessionDetached { reason }.into()
        } else {
            SessionEnded { exit_code: None, reason, bytes_in: 0, bytes_out: 0 }.into()
        };
        match session.record(event).await {
            // In an archived project, say: nothing more will be written there.
            Ok(_) | Err(ServiceError::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How many are attached, by the session's stream.
fn attached(stored: &[StoredEvent]) -> u64 {
    let (mut all, mut left) = (0_u64, 0);
    for event in stored {
        match event.kind.as_str() {
            "SessionRequested" | "SessionAttached" => all += 1,
            "SessionDetached" | "SessionRefused" => left += 1,
            "SessionEnded" => left = all,
            _ => {}
        }
    }
    all.saturating_sub(left)
}

/// Since when bridges are known to have run out.
#[derive(Debug, Default)]
struct Gone(HashMap<Uuid, Instant>);

impl Gone {
    /// Those whose processes had time enough to keep them.
    fn due(&mut self, stale: &[Bridge], now: Instant) -> BTreeSet<Uuid> {
        self.0.retain(|id, _| stale.iter().any(|bridge| bridge.id == *id));
        for bridge in stale {
            self.0.entry(bridge.id).or_insert(now);
        }
        let is_due = |since: &Instant| now.duration_since(*since) >= LIFE;
        self.0.iter().filter(|(_, since)| is_due(since)).map(|(id, _)| *id).collect()
    }
}

/// A session that was asked for; later, a bridge. A client that leaves before it is carried leaves
/// this, and it stands in the log.
#[derive(Debug)]
pub struct Opening {
    session: Session,
    /// What is written down when nothing comes of it.
    left: Option<Event>,
    /// The bridge, while it is to be kept.
    bridge: Option<Uuid>,
}

impl Opening {
    /// Writes down that a session is asked for, or attached to; answers with the place of that event
    /// in the session's stream. `left`: what stands in the log when nothing comes of it.
    ///
    /// # Errors
    /// When it is not in the log.
    pub async fn ask(
        session: &Session,
        asked: impl Into<Event> + Send,
        left: impl Into<Event> + Send,
    ) -> Result<(Self, u64), ServiceError> {
        let left = left.into();
        let bridge = Bridge {
            id: Uuid::new_v4(),
            project: session.project.clone(),
            device: session.device,
            session: session.id,
            is_shell: matches!(left, Event::SessionDetached(_)),
            actor: session.actor.clone(),
        };
        let (bridges, log) = (session.bridges(), &session.service().log);
        log.put_bridge(&bridge, LIFE).await?;
        bridges.held().insert(bridge.id);
        let bridge = Some(bridge.id);
        let mut opening = Self { session: session.clone(), left: None, bridge };
        let version = session.record(asked).await?;
        opening.left = Some(left);
        Ok((opening, version))
    }

    /// It is known why nothing came of it; or the bridge is over. `is_known`: that is in the log.
    pub async fn over(mut self, is_known: bool) {
        self.left = None;
        if let Some(bridge) = self.bridge.take() {
            let_go(&self.session, bridge, is_known).await;
        }
    }
}

/// Keeps a bridge no longer. What is not known of it is found when it has run out.
async fn let_go(session: &Session, bridge: Uuid, is_known: bool) {
    session.bridges().held().remove(&bridge);
    if is_known && let Err(error) = session.service().log.drop_bridge(bridge).await {
        tracing::debug!(%error, "a bridge is forgotten later");
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(bridge) = self.bridge.take() else { return };
        let (session, left) = (self.session.clone(), self.left.take());
        tokio::spawn(async move {
            let is_known = match left {
                Some(left) => session.note(left).await,
                None => false,
            };
            let_go(&session, bridge, is_known).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::{DeviceId, ProjectId, SessionId};

    use super::*;

    #[test]
    fn a_bridge_that_ran_out_is_given_as_long_again() {
        let (mut gone, now) = (Gone::default(), Instant::now());
        let bridge = |id| Bridge {
            id: Uuid::from_u128(id),
            project: ProjectId::default_project(),
            device: DeviceId(Uuid::nil()),
            session: SessionId(Uuid::nil()),
            is_shell: true,
            actor: "token:x".to_owned(),
        };
        let (one, two) = (bridge(1), bridge(2));
        assert!(gone.due(&[one.clone(), two.clone()], now).is_empty());
        let later = now + LIFE / 2;
        assert!(gone.due(std::slice::from_ref(&two), later).is_empty(), "the other was kept");
        assert_eq!(gone.due(&[one, two.clone()], now + LIFE), BTreeSet::from([two.id]));
        assert!(gone.due(&[], now + LIFE * 2).is_empty());
    }
}
