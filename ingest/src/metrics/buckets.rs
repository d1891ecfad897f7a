//! The bucket of each project in the metric store, with the retention from the log `system`.
//! The client creates a bucket before anything is written to it.
//!
//! Every project except `default` has its own bucket, so that no project sees or affects the names,
//! types and values of another. `default` uses the database itself until it gets a retention. If
//! the store cannot create a project's bucket, the project's metrics go to the database, too: they
//! are not lost, and a warning is logged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_eventlog::{EventLog, Follower, ReadFilter, StoreError};
use muster_metric_store::{InfluxClient, MetricBucket, own_policy};
use muster_schemas::events::ProjectRetentionSet;
use muster_schemas::{Event, Position, ProjectId, Retention, StreamName};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::counters;

/// Delay before a failed request to the log or the store is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Interval at which a refused request to the store is repeated.
const REFUSED_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which buckets with the store's default retention are compared with that default.
const COMPARE_INTERVAL: Duration = Duration::from_secs(600);
/// Number of events that are read in one query.
const MAX_EVENTS_PER_QUERY: u32 = 1_000;
/// Capacity of the queue of projects that request a bucket.
const REQUEST_QUEUE_CAPACITY: usize = 64;

type CachedBuckets = HashMap<ProjectId, MetricBucket>;

/// The current bucket of each project; cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricBuckets {
    cached: watch::Receiver<Option<CachedBuckets>>,
    /// Projects that request a bucket; `None`: all projects use the database.
    requests: Option<mpsc::Sender<ProjectId>>,
}

impl MetricBuckets {
    /// All projects use the database itself.
    #[must_use]
    pub fn shared() -> Self {
        Self { cached: watch::channel(Some(CachedBuckets::new())).1, requests: None }
    }

    /// Follows the log and creates buckets in the store until `stop`.
    #[must_use]
    pub fn follow(log: EventLog, client: Arc<InfluxClient>, stop: CancellationToken) -> Self {
        let (cached, receiver) = watch::channel(None);
        let (requests, requested) = mpsc::channel(REQUEST_QUEUE_CAPACITY);
        let follower = Follower::start(&log, stop.clone());
        let manager = RetentionManager {
            log,
            client,
            position: Position::ZERO,
            retentions: BTreeMap::new(),
            states: BTreeMap::new(),
            compared_at: Instant::now(),
            cached,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = manager.run(follower, requested) => {}
            }
        });
        Self { cached: receiver, requests: Some(requests) }
    }

    /// Waits until the log was read once: no bucket is determined before.
    pub async fn wait_until_loaded(&self) {
        // Fails only when the task has ended, so the process is stopping.
        let _ = self.cached.clone().wait_for(Option::is_some).await;
    }

    /// The current bucket of a project. At the first call for a project it waits until the bucket
    /// was requested from the store.
    pub async fn get(&self, project: &ProjectId) -> MetricBucket {
        let of = |cached: &Option<CachedBuckets>| {
            cached.as_ref().and_then(|it| it.get(project)).cloned()
        };
        if let Some(bucket) = of(&self.cached.borrow()) {
            return bucket;
        }
        let Some(requests) = &self.requests else { return MetricBucket::Shared };
        if uses_shared_bucket(project, Retention::Default) {
            return MetricBucket::Shared;
        }
        // Both fail only when the task has ended, so the process is stopping.
        let _ = requests.send(project.clone()).await;
        match self.cached.clone().wait_for(|cached| of(cached).is_some()).await {
            Ok(cached) => of(&cached).unwrap_or_default(),
            Err(_) => MetricBucket::Shared,
        }
    }
}

/// Whether the store has applied a project's retention.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The store has applied it.
    Applied(Retention),
    /// The store does not support it, or refuses it; with the reason.
    Refused(Retention, String),
    /// The store is unavailable.
    Pending,
}

struct RetentionManager {
    log: EventLog,
    client: Arc<InfluxClient>,
    /// Position up to which the log was read.
    position: Position,
    /// The retention of each project that sends metrics, or ever had its own retention.
    retentions: BTreeMap<ProjectId, Retention>,
    states: BTreeMap<ProjectId, State>,
    /// Time of the last comparison of buckets with the store's default retention.
    compared_at: Instant,
    cached: watch::Sender<Option<CachedBuckets>>,
}

impl RetentionManager {
    async fn run(mut self, follower: Follower, mut requests: mpsc::Receiver<ProjectId>) {
        let system = ProjectId::system();
        let mut is_reported = false;
        loop {
            match self.read_log().await {
                Ok(()) => is_reported = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::warn!(
                            %error,
                            "failed to read the projects' retentions; trying again"
                        );
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            }
            self.apply_retentions().await;
            self.publish();
            let is_open = self.states.values().any(|state| *state == State::Pending);
            tokio::select! {
                _ = follower.wait_beyond(&system, self.position) => {}
                Some(project) = requests.recv() => {
                    self.retentions.entry(project).or_default();
                }
                () = tokio::time::sleep(if is_open { RETRY_DELAY } else { REFUSED_RETRY_INTERVAL }) => {}
            }
        }
    }

    /// Reads the new events of the log.
    async fn read_log(&mut self) -> Result<(), StoreError> {
        let system = ProjectId::system();
        let head = self.log.newest_position(&system).await?;
        if head < self.position {
            // An older backup was restored: read the log from its start.
            (self.position, self.retentions, self.states) = Default::default();
        }
        let mut filter = ReadFilter {
            after: self.position,
            until: Some(head),
            kinds: vec![ProjectRetentionSet::TYPE.to_owned()],
        };
        loop {
            let stored = self.log.read(&system, &filter, MAX_EVENTS_PER_QUERY).await?;
            for stored in &stored {
                filter.after = stored.position;
                if !self.log.is_authentic(&system, stored) {
                    continue;
                }
                let StreamName::Project(project) = &stored.stream else { continue };
                match stored.event() {
                    Ok(Event::ProjectRetentionSet(event)) => {
                        self.retentions.insert(project.clone(), event.retention);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, %project, "failed to read a project's retention");
                    }
                }
            }
            if stored.len() < MAX_EVENTS_PER_QUERY as usize {
                self.position = head;
                return Ok(());
            }
        }
    }

    /// Applies the log's retentions to the store.
    async fn apply_retentions(&mut self) {
        let mut is_away = false;
        if self.compared_at.elapsed() >= COMPARE_INTERVAL {
            self.compared_at = Instant::now();
            self.states.retain(|_, state| *state != State::Applied(Retention::Default));
        }
        for (project, retention) in &self.retentions {
            let before = self.states.get(project);
            if before == Some(&State::Applied(*retention)) {
                continue;
            }
            if is_away {
                self.states.insert(project.clone(), State::Pending);
                continue;
            }
            let policy = own_policy(project);
            let kept = if uses_shared_bucket(project, *retention) {
                self.client.reset_retention(&policy).await
            } else {
                self.client.apply_retention(&policy, *retention).await
            };
            let state = match kept {
                Ok(()) => {
                    if retention.days().is_some() {
                        tracing::info!(
                            %project, %retention,
                            "the metric store has the project's retention"
                        );
                    }
                    State::Applied(*retention)
                }
                Err(error) if error.is_temporary() => {
                    is_away = true;
                    tracing::debug!(
                        %project, reason = error.reason(),
                        "failed to set a project's retention in the metric store"
                    );
                    State::Pending
                }
                Err(error) => {
                    let state = State::Refused(*retention, error.reason());
                    if before != Some(&state) {
                        log_state(project, &state);
                    }
                    state
                }
            };
            self.states.insert(project.clone(), state);
        }
    }

    fn publish(&self) {
        let bucket = |(project, retention): (&ProjectId, &Retention)| {
            // While the store is unavailable nothing is written; the next write creates the bucket.
            let is_rejected = matches!(self.states.get(project), Some(State::Refused(..)));
            let bucket = if is_rejected || uses_shared_bucket(project, *retention) {
                MetricBucket::Shared
            } else {
                MetricBucket::own(project, *retention)
            };
            (project.clone(), bucket)
        };
        let buckets: CachedBuckets = self.retentions.iter().map(bucket).collect();
        let count = |fits: fn(&State) -> bool| self.states.values().filter(|it| fits(it)).count();
        counters::project_retentions([
            ("kept", count(|state| matches!(state, State::Applied(_)))),
            ("refused", count(|state| matches!(state, State::Refused(..)))),
            ("awaited", count(|state| *state == State::Pending)),
        ]);
        self.cached.send_replace(Some(buckets));
    }
}

/// Whether the project's metrics go to the database itself, given its retention.
fn uses_shared_bucket(project: &ProjectId, retention: Retention) -> bool {
    retention == Retention::Default && *project == ProjectId::default_project()
}

fn log_state(project: &ProjectId, state: &State) {
    if let State::Refused(retention, reason) = state {
        tracing::warn!(
            %project, %retention,
            "the metric store has no separate bucket for the project; its metrics are written to \
             the shared database, with its retention, and other projects see the names of its \
             fields: {reason}"
        );
    }
}
