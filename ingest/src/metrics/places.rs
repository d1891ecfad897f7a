//! The bucket of each project in the metric store, with the retention that the log `system` says. It is
//! made by `place_setup` before anything is sent there.
//!
//! Every project but `default` has a bucket of its own, so that no project sees or affects the names,
//! types and values of another. `default` has the database itself, until it gets a retention. A project
//! whose bucket the store cannot make goes to the database too: its metrics are not lost, and a warning
//! says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_eventlog::{EventLog, Follower, ReadFilter, StoreError};
use muster_schemas::retention::own_policy;
use muster_schemas::{Event, ProjectId, Retention, StreamName};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::client::InfluxClient;
use super::place_setup::PlaceError;
use crate::counters;

/// The wait before the log or the store is asked again after it could not be.
const RETRY: Duration = Duration::from_secs(2);
/// How often the store is asked again for what it has refused.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Interval at which buckets with the store's default retention are compared with that default.
const COMPARE_INTERVAL: Duration = Duration::from_secs(600);
/// Events that are read at once.
const AT_ONCE: u32 = 1_000;
/// Capacity of the queue of projects whose bucket is wanted.
const WANTED_CAPACITY: usize = 64;

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// The database itself: the bucket of the project `default`.
    #[default]
    Shared,
    /// A project's own bucket.
    Own {
        /// Its name, by [`own_policy`].
        policy: Arc<str>,
        /// How long the store keeps points.
        retention: Retention,
    },
}

impl Place {
    /// A project's own bucket.
    #[must_use]
    pub fn own(project: &ProjectId, retention: Retention) -> Self {
        Self::Own { policy: own_policy(project).into(), retention }
    }

    /// The retention; that of the store when the project has none of its own.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        match self {
            Self::Shared => Retention::Default,
            Self::Own { retention, .. } => *retention,
        }
    }
}

type Known = HashMap<ProjectId, Place>;

/// Knows where each project's metrics go; cheap to clone.
#[derive(Clone, Debug)]
pub struct Places {
    known: watch::Receiver<Option<Known>>,
    /// Projects whose bucket is wanted; without it all go to the database.
    wanted: Option<mpsc::Sender<ProjectId>>,
}

impl Places {
    /// Every project goes to the database itself.
    #[must_use]
    pub fn shared() -> Self {
        Self { known: watch::channel(Some(Known::new())).1, wanted: None }
    }

    /// Follows the log, and makes places in the store, until `stop`.
    #[must_use]
    pub fn follow(log: EventLog, client: Arc<InfluxClient>, stop: CancellationToken) -> Self {
        let (known, receiver) = watch::channel(None);
        let (wanted, asked) = mpsc::channel(WANTED_CAPACITY);
        let follower = Follower::start(&log, stop.clone());
        let keeper = Keeper {
            log,
            client,
            position: 0,
            wanted: BTreeMap::new(),
            states: BTreeMap::new(),
            compared: Instant::now(),
            known,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = keeper.run(follower, asked) => {}
            }
        });
        Self { known: receiver, wanted: Some(wanted) }
    }

    /// Waits until the log was read once: before that, nobody knows where anything goes.
    pub async fn known(&self) {
        // Without a keeper nothing will be known any more, and the process is stopping.
        let _ = self.known.clone().wait_for(Option::is_some).await;
    }

    /// Where a project's metrics go now. Waits once for a project that was not asked for before: its
    /// bucket is made.
    pub async fn of(&self, project: &ProjectId) -> Place {
        let of = |known: &Option<Known>| known.as_ref().and_then(|it| it.get(project)).cloned();
        if let Some(place) = of(&self.known.borrow()) {
            return place;
        }
        let Some(wanted) = &self.wanted else { return Place::Shared };
        if has_the_database(project, Retention::Default) {
            return Place::Shared;
        }
        // Both fail when the keeper has stopped, and then the process is stopping.
        let _ = wanted.send(project.clone()).await;
        match self.known.clone().wait_for(|known| of(known).is_some()).await {
            Ok(known) => of(&known).unwrap_or_default(),
            Err(_) => Place::Shared,
        }
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
    /// The retention of each project that sends metrics, or ever had one of its own.
    wanted: BTreeMap<ProjectId, Retention>,
    states: BTreeMap<ProjectId, State>,
    /// When buckets were last compared with the store's default retention.
    compared: Instant,
    known: watch::Sender<Option<Known>>,
}

impl Keeper {
    async fn run(mut self, follower: Follower, mut asked: mpsc::Receiver<ProjectId>) {
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
                Some(project) = asked.recv() => {
                    self.wanted.entry(project).or_default();
                }
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
        if self.compared.elapsed() >= COMPARE_INTERVAL {
            self.compared = Instant::now();
            self.states.retain(|_, state| *state != State::Kept(Retention::Default));
        }
        for (project, retention) in &self.wanted {
            let before = self.states.get(project);
            if before == Some(&State::Kept(*retention)) {
                continue;
            }
            if is_away {
                self.states.insert(project.clone(), State::Awaited);
                continue;
            }
            let policy = own_policy(project);
            let kept = if has_the_database(project, *retention) {
                self.client.release(&policy).await
            } else {
                self.client.keep(&policy, *retention).await
            };
            let state = match kept {
                Ok(()) => {
                    if retention.days().is_some() {
                        tracing::info!(%project, %retention, "the metric store keeps the project's metrics so long");
                    }
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
            // While the store is away nothing is written; the first write after that makes the bucket.
            let is_refused = matches!(self.states.get(project), Some(State::Refused(..)));
            let place = if is_refused || has_the_database(project, *retention) {
                Place::Shared
            } else {
                Place::own(project, *retention)
            };
            (project.clone(), place)
        };
        let known: Known = self.wanted.iter().map(place).collect();
        let count = |fits: fn(&State) -> bool| self.states.values().filter(|it| fits(it)).count();
        counters::project_retentions([
            ("kept", count(|state| matches!(state, State::Kept(_)))),
            ("refused", count(|state| matches!(state, State::Refused(..)))),
            ("awaited", count(|state| *state == State::Awaited)),
        ]);
        self.known.send_replace(Some(known));
    }
}

/// Do the project's metrics go to the database itself, by what is wanted?
fn has_the_database(project: &ProjectId, retention: Retention) -> bool {
    retention == Retention::Default && *project == ProjectId::default_project()
}

fn complain(project: &ProjectId, state: &State) {
    if let State::Refused(retention, words) = state {
        tracing::warn!(
            %project, %retention,
            "the metric store has no bucket of the project's own; its metrics go to the database of all projects, with that one's retention, and other projects see the names of its fields: {words}"
        );
    }
}
