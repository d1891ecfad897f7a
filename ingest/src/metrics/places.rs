//! Where each project's metrics go: what the log `system` says of their retention, made true in the
//! metric store by `place_setup` before anything is sent there.
//!
//! A project without a retention of its own goes where all go. So does one whose retention the store
//! cannot keep, or does not let us set: its metrics are not lost, and that is complained about.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use muster_eventlog::{EventLog, Follower, ReadFilter, StoreError};
use muster_schemas::retention::own_policy;
use muster_schemas::{Event, ProjectId, Retention, StreamName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::InfluxClient;
use super::place_setup::PlaceError;
use crate::counters;

/// The wait before the log or the store is asked again after it could not be.
const RETRY: Duration = Duration::from_secs(2);
/// How often the store is asked again for what it has refused.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Events that are read at once.
const AT_ONCE: u32 = 1_000;

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// Where the metrics of all projects go.
    #[default]
    Shared,
    /// A project's own place.
    Own {
        /// Its name, by [`own_policy`].
        policy: Arc<str>,
        /// The store lets points go that are so many days old.
        days: u16,
    },
}

impl Place {
    /// A project's own place.
    #[must_use]
    pub fn own(project: &ProjectId, days: u16) -> Self {
        Self::Own { policy: own_policy(project).into(), days }
    }
}

type Known = HashMap<ProjectId, Place>;

/// Knows where each project's metrics go; cheap to clone.
#[derive(Clone, Debug)]
pub struct Places(watch::Receiver<Option<Known>>);

impl Places {
    /// Every project goes where all go.
    #[must_use]
    pub fn shared() -> Self {
        Self(watch::channel(Some(Known::new())).1)
    }

    /// Follows the log, and makes places in the store, until `stop`.
    #[must_use]
    pub fn follow(log: EventLog, client: Arc<InfluxClient>, stop: CancellationToken) -> Self {
        let (known, receiver) = watch::channel(None);
        let follower = Follower::start(&log, stop.clone());
        let keeper = Keeper {
            log,
            client,
            position: 0,
            wanted: BTreeMap::new(),
            states: BTreeMap::new(),
            known,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = keeper.run(follower) => {}
            }
        });
        Self(receiver)
    }

    /// Waits until the log was read once: before that, nobody knows where anything goes.
    pub async fn known(&self) {
        // Without a keeper nothing will be known any more, and the process is stopping.
        let _ = self.0.clone().wait_for(Option::is_some).await;
    }

    /// Where a project's metrics go now.
    #[must_use]
    pub fn of(&self, project: &ProjectId) -> Place {
        let known = self.0.borrow();
        known.as_ref().and_then(|known| known.get(project)).cloned().unwrap_or_default()
    }
}

/// How far a project's retention has come in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The store keeps it.
    Kept(Retention),
    /// The store cannot, or does not let us.
    Refused(Retention, String),
    /// The store did not answer.
    Awaited,
}

struct Keeper {
    log: EventLog,
    client: Arc<InfluxClient>,
    /// How far the log was read.
    position: u64,
    /// What the log says, for projects that ever had a retention of their own.
    wanted: BTreeMap<ProjectId, Retention>,
    states: BTreeMap<ProjectId, State>,
    known: watch::Sender<Option<Known>>,
}

impl Keeper {
    async fn run(mut self, follower: Follower) {
        let system = ProjectId::system();
        let mut is_told = false;
        loop {
            match self.learn().await {
                Ok(()) => is_told = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%error, "the projects' retentions cannot be read; trying again");
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            self.keep().await;
            self.publish();
            let is_open = self.states.values().any(|state| *state == State::Awaited);
            tokio::select! {
                _ = follower.wait_beyond(&system, self.position) => {}
                () = tokio::time::sleep(if is_open { RETRY } else { ASK_AGAIN }) => {}
            }
        }
    }

    /// Reads what the log says since the last time.
    async fn learn(&mut self) -> Result<(), StoreError> {
        let system = ProjectId::system();
        let head = self.log.head(&system).await?.map_or(0, |head| head.position);
        if head < self.position {
            // An older backup was restored: all of it is read again.
            (self.position, self.wanted, self.states) = Default::default();
        }
        let mut filter = ReadFilter {
            after: self.position,
            until: Some(head),
            kinds: vec!["ProjectRetentionSet".to_owned()],
        };
        loop {
            let stored = self.log.read(&system, &filter, AT_ONCE).await?;
            for stored in &stored {
                filter.after = stored.position;
                if !self.log.is_authentic(&system, stored) {
                    continue;
                }
                let StreamName::Project(project) = &stored.stream else { continue };
                match stored.event() {
                    Ok(Event::ProjectRetentionSet(event)) => {
                        self.wanted.insert(project.clone(), event.retention);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, %project, "a project's retention cannot be read");
                    }
                }
            }
            if stored.len() < AT_ONCE as usize {
                self.position = head;
                return Ok(());
            }
        }
    }

    /// Has the store keep what the log says.
    async fn keep(&mut self) {
        let mut is_away = false;
        for (project, retention) in &self.wanted {
            let before = self.states.get(project);
            if before == Some(&State::Kept(*retention)) {
                continue;
            }
            if is_away {
                self.states.insert(project.clone(), State::Awaited);
                continue;
            }
            let state = match self.client.keep(&own_policy(project), *retention).await {
                Ok(()) => {
                    tracing::info!(%project, %retention, "the metric store keeps the project's metrics so long");
                    State::Kept(*retention)
                }
                Err(PlaceError::Refused(words)) => {
                    let state = State::Refused(*retention, words);
                    if before != Some(&state) {
                        complain(project, &state);
                    }
                    state
                }
                Err(PlaceError::Away(words)) => {
                    is_away = true;
                    tracing::debug!(%project, words, "the metric store was not told of a retention");
                    State::Awaited
                }
            };
            self.states.insert(project.clone(), state);
        }
    }

    fn publish(&self) {
        let place = |(project, retention): (&ProjectId, &Retention)| {
            let days = retention.days()?;
            // While the store is away nothing is written; whoever is first then makes the place.
            let is_refused = matches!(self.states.get(project), Some(State::Refused(..)));
            (!is_refused).then(|| (project.clone(), Place::own(project, days)))
        };
        let known: Known = self.wanted.iter().filter_map(place).collect();
        let count = |fits: fn(&State) -> bool| self.states.values().filter(|it| fits(it)).count();
        counters::project_retentions([
            ("kept", count(|state| matches!(state, State::Kept(_)))),
            ("refused", count(|state| matches!(state, State::Refused(..)))),
            ("awaited", count(|state| *state == State::Awaited)),
        ]);
        self.known.send_replace(Some(known));
    }
}

fn complain(project: &ProjectId, state: &State) {
    if let State::Refused(retention, words) = state {
        tracing::warn!(
            %project, %retention,
            "the metric store does not keep the project's metrics so long, but as it keeps those of all projects: {words}"
        );
    }
}
