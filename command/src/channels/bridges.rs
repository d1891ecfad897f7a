//! All bridges of this process: they end with it, and what is to be said of them is said. Of those of
//! a process that was killed, another one says it.
//!
//! Each bridge has a lease in PostgreSQL that its process keeps. One that has run out belongs to a
//! process that is not there any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_schemas::events::{SessionDetached, SessionEnded};
use muster_schemas::{DeviceId, Event, ProjectId, SessionId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::audit::Session;
use crate::service::{Service, ServiceError};

/// When the process stops, its bridges have so long to write down how they ended.
const LAST: Duration = Duration::from_secs(5);
/// Leases are kept this often.
const BEAT: Duration = Duration::from_secs(3);
/// So long they last. One that has run out is looked at for as long again: its process may have been
/// without PostgreSQL, as this one.
const LIFE: Duration = Duration::from_secs(10);
/// Bridges that are looked at at once.
const STRETCH: u32 = 200;
/// What the names of their leases begin with.
const PREFIX: &str = "bridge/";
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
    held: Mutex<BTreeSet<String>>,
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

    fn held(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Keeps the leases of this process's bridges and speaks for those of others, until `stop`; then
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
                tracing::debug!(%error, "the leases of bridges are not kept; trying again");
            }
        }
        self.bridges.stop.cancel();
        self.bridges.tasks.close();
        if timeout(LAST, self.bridges.tasks.wait()).await.is_err() {
            tracing::warn!(open = self.bridges.tasks.len(), "not all bridges have ended");
        }
    }

    async fn beat(&self, gone: &mut Gone) -> Result<(), ServiceError> {
        let held: Vec<String> = self.bridges.held().iter().cloned().collect();
        if !held.is_empty() {
            self.log.hold_leases(self.bridges.process, &held, LIFE).await?;
        }
        let stale = self.log.stale_leases(PREFIX, STRETCH).await?;
        let due = gone.due(stale, Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let (process, life) = (self.bridges.process, LIFE * 3);
        if self.log.acquire_lease(REAPER, process, life).await?.is_none() {
            return Ok(());
        }
        for name in due {
            if let Some(bridge) = Bridge::parse(&name) {
                self.speak_for(bridge).await?;
            }
            self.log.drop_leases(&[name]).await?;
        }
        Ok(self.log.release_lease(REAPER, process).await?)
    }

    /// Writes down that a bridge is gone, unless that is known.
    async fn speak_for(&self, bridge: Bridge) -> Result<(), ServiceError> {
        let Bridge { project, device, session, is_shell, actor } = bridge;
        let session = Session::new(self.clone(), project, device, session, actor);
        let stored = self.log.read_stream(&session.project, &session.stream()).await?;
        let is_over = stored.iter().any(|event| event.kind == "SessionEnded");
        if stored.is_empty() || is_over {
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

/// Since when leases are known to have run out.
#[derive(Debug, Default)]
struct Gone(HashMap<String, Instant>);

impl Gone {
    /// Those whose processes had time enough to keep them.
    fn due(&mut self, stale: Vec<String>, now: Instant) -> Vec<String> {
        self.0.retain(|name, _| stale.contains(name));
        for name in stale {
            self.0.entry(name).or_insert(now);
        }
        let is_due = |since: &Instant| now.duration_since(*since) >= LIFE;
        self.0.iter().filter(|(_, since)| is_due(since)).map(|(name, _)| name.clone()).collect()
    }
}

/// What a lease's name says: enough to speak for the bridge.
#[derive(Debug, PartialEq, Eq)]
struct Bridge {
    project: ProjectId,
    device: DeviceId,
    session: SessionId,
    is_shell: bool,
    actor: String,
}

impl Bridge {
    /// A name of its own, also where one person is attached twice.
    fn name(&self) -> String {
        let Self { project, device, session, is_shell, actor } = self;
        let kind = if *is_shell { "shell" } else { "bytes" };
        format!("{PREFIX}{project}/{device}/{session}/{kind}/{}/{actor}", Uuid::new_v4())
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(6, '/');
        let (project, device) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (session, kind) = (parts.next()?.parse().ok()?, parts.next()?);
        let actor = parts.nth(1)?.to_owned();
        Some(Self { project, device, session, is_shell: kind == "shell", actor })
    }
}

/// A session that was asked for; later, a bridge. A client that leaves before it is carried leaves
/// this, and it stands in the log.
#[derive(Debug)]
pub struct Opening {
    session: Session,
    left: Option<Event>,
    lease: Option<String>,
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
            project: session.project.clone(),
            device: session.device,
            session: session.id,
            is_shell: matches!(left, Event::SessionDetached(_)),
            actor: session.actor.clone(),
        };
        let name = bridge.name();
        let (bridges, log) = (session.bridges(), &session.service().log);
        log.hold_leases(bridges.process, std::slice::from_ref(&name), LIFE).await?;
        bridges.held().insert(name.clone());
        let mut opening = Self { session: session.clone(), left: None, lease: Some(name) };
        let version = session.record(asked).await?;
        opening.left = Some(left);
        Ok((opening, version))
    }

    /// Something came of it, or it is known why not.
    pub fn done(&mut self) {
        self.left = None;
    }

    /// The bridge is over, and that is in the log.
    pub async fn over(mut self) {
        self.done();
        if let Some(lease) = self.lease.take() {
            give_back(&self.session, lease).await;
        }
    }
}

async fn give_back(session: &Session, lease: String) {
    session.bridges().held().remove(&lease);
    if let Err(error) = session.service().log.drop_leases(&[lease]).await {
        // It runs out, and then it is found that nothing is to be said.
        tracing::debug!(%error, "a bridge's lease is not given back");
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let (left, lease) = (self.left.take(), self.lease.take());
        if left.is_none() && lease.is_none() {
            return;
        }
        let session = self.session.clone();
        tokio::spawn(async move {
            if let Some(left) = left {
                session.note(left).await;
            }
            if let Some(lease) = lease {
                give_back(&session, lease).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_enough_to_speak_for_a_bridge() {
        let bridge = Bridge {
            project: ProjectId::default_project(),
            device: DeviceId(Uuid::new_v4()),
            session: SessionId(Uuid::new_v4()),
            is_shell: true,
            actor: "token:a/b".to_owned(),
        };
        assert_eq!(Bridge::parse(&bridge.name()), Some(bridge));
        assert_eq!(Bridge::parse("bridge/default/x"), None);
        assert_eq!(Bridge::parse("events/3"), None);
    }

    #[test]
    fn a_lease_that_ran_out_is_given_as_long_again() {
        let (mut gone, now) = (Gone::default(), Instant::now());
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(gone.due(names(&["a", "b"]), now), names(&[]));
        let later = now + LIFE / 2;
        assert_eq!(gone.due(names(&["b"]), later), names(&[]), "a was kept in the meantime");
        assert_eq!(gone.due(names(&["a", "b"]), now + LIFE), names(&["b"]));
        assert_eq!(gone.due(names(&[]), now + LIFE * 2), names(&[]));
    }
}
