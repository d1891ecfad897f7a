//! What the handlers of the read API share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::FromRef;
use muster_api::blobs::Blobs;
use muster_api::{ApiState, Problem};
use muster_eventlog::projection::Progress;
use muster_eventlog::{EventLog, Failure, Follower};
use muster_schemas::{DeviceId, ProjectId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::append_reports::AppendReports;
use crate::influx::InfluxClient;
use crate::latest::LatestMetrics;
use crate::live_streams::LiveStreams;
use crate::projections::devices::Device;
use crate::walk_rate::WalkRate;

/// Looks into the past that are worked out at once; more wait.
const TRAVELERS: usize = 2;

/// All devices of a project as they were.
#[derive(Clone, Debug)]
pub struct Past {
    /// The project.
    pub project: ProjectId,
    /// The position.
    pub position: u64,
    /// The devices.
    pub devices: Arc<BTreeMap<DeviceId, Device>>,
}

/// How far the read models have come.
#[derive(Clone, Debug, Default)]
pub struct ReadModels {
    /// The devices.
    pub devices: Progress,
    /// The tokens.
    pub tokens: Progress,
    /// The timeline.
    pub timeline: Progress,
    /// The projects.
    pub projects: Progress,
    /// The operations and their runs.
    pub operations: Progress,
    /// The sessions.
    pub sessions: Progress,
}

impl ReadModels {
    /// The names of all of them with how far each has come.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Progress); 6] {
        [
            ("devices", &self.devices),
            ("tokens", &self.tokens),
            ("timeline", &self.timeline),
            ("projects", &self.projects),
            ("operations", &self.operations),
            ("sessions", &self.sessions),
        ]
    }

    /// Those that cannot be written.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, Failure)> {
        self.all().into_iter().filter_map(|(name, progress)| Some((name, progress.failure()?)))
    }
}

/// The state of the read API; cheap to clone.
#[derive(Clone, Debug)]
pub struct QueryState {
    /// The log and the authenticator.
    pub api: ApiState,
    /// The log for what people ask.
    questions: EventLog,
    /// Wakes live streams.
    pub follower: Follower,
    /// How far the read models have come.
    pub read_models: ReadModels,
    /// The newest metrics.
    pub latest: LatestMetrics,
    /// Metrics over time.
    pub influx: InfluxClient,
    /// The broker, to answer other roles and to be told of new output.
    pub nats: async_nats::Client,
    /// What is too large or too private for events.
    pub blobs: Blobs,
    /// Ends live streams.
    pub stop: CancellationToken,
    /// Bounds the memory of time travel.
    pub travelers: Arc<Semaphore>,
    /// The last look into the past: the next page of a list asks for the same.
    pub past: Arc<Mutex<Option<Past>>>,
    /// Bounds the live streams.
    pub streams: LiveStreams,
    /// Bounds how many lists a token starts that are kept.
    pub walk_rate: WalkRate,
    /// What other processes report of the log.
    pub append_reports: AppendReports,
}

impl QueryState {
    /// A state of these parts.
    #[must_use]
    pub fn new(
        api: ApiState,
        follower: Follower,
        read_models: ReadModels,
        latest: LatestMetrics,
        influx: InfluxClient,
        (nats, blobs, (streams, walk_rate)): (async_nats::Client, Blobs, (LiveStreams, WalkRate)),
        stop: CancellationToken,
    ) -> Self {
        Self {
            questions: api.log.for_questions(),
            streams,
            walk_rate,
            append_reports: AppendReports::default(),
            past: Arc::default(),
            api,
            follower,
            read_models,
            latest,
            influx,
            nats,
            blobs,
            stop,
            travelers: Arc::new(Semaphore::new(TRAVELERS)),
        }
    }

    /// The event log.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.questions
    }

    /// The pool for read models.
    #[must_use]
    pub fn sql(&self) -> &sqlx::PgPool {
        &self.api.log.stores().sql
    }
}

impl FromRef<QueryState> for ApiState {
    fn from_ref(state: &QueryState) -> Self {
        state.api.clone()
    }
}

/// A read model could not be asked.
pub(crate) fn sql_problem(error: sqlx::Error) -> Problem {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            tracing::warn!(%error, "PostgreSQL is away");
            Problem::unavailable("the database is away; try again", 2)
        }
        error => Problem::internal(&error),
    }
}
