//! Shared state of the handlers of the read API.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRef;
use muster_api::{ApiState, Problem};
use muster_blobs::Blobs;
use muster_eventlog::projection::Progress;
use muster_eventlog::tiles::TREE_TILES;
use muster_eventlog::{EventLog, Failure, Follower};
use muster_schemas::{DeviceId, Position, ProjectId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::append_reports::AppendReports;
use crate::device_windows::DeviceWindows;
use crate::influx::MetricReader;
use crate::latest::LatestMetrics;
use crate::live_streams::LiveStreams;
use crate::projections::devices::{self, Device};
use crate::projections::{operations, projects, sessions, timeline, tokens};
use crate::walk_rate::WalkRate;

/// Maximum number of concurrent point-in-time queries.
const MAX_POINT_IN_TIME_QUERIES: usize = 2;

/// All devices of a project at a position.
#[derive(Clone, Debug)]
pub struct DeviceSnapshot {
    /// The project.
    pub project: ProjectId,
    /// The position.
    pub position: Position,
    /// The devices.
    pub devices: Arc<BTreeMap<DeviceId, Device>>,
}

/// Projections whose tables the query role writes.
pub const PROJECTIONS: [&str; 7] = [
    devices::TABLE,
    tokens::TABLE,
    timeline::TABLE,
    projects::TABLE,
    operations::TABLE,
    sessions::TABLE,
    TREE_TILES,
];

/// Projections without which no request can be served. The tiles are filled while the server runs.
pub(crate) fn required_projections() -> Vec<&'static str> {
    PROJECTIONS.into_iter().filter(|name| *name != TREE_TILES).collect()
}

/// Progress of the read models.
#[derive(Clone, Debug, Default)]
pub struct ReadModels {
    /// Progress of the devices.
    pub devices: Progress,
    /// Progress of the tokens.
    pub tokens: Progress,
    /// Progress of the timeline.
    pub timeline: Progress,
    /// Progress of the projects.
    pub projects: Progress,
    /// Progress of the operations and their runs.
    pub operations: Progress,
    /// Progress of the sessions.
    pub sessions: Progress,
}

impl ReadModels {
    /// Returns the names of all read models with their progress.
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

    /// Returns the read models that cannot be written, with the failure.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, Failure)> {
        self.all().into_iter().filter_map(|(name, progress)| Some((name, progress.failure()?)))
    }
}

/// The state of the read API; cheap to clone, which happens several times for each request.
#[derive(Clone, Debug)]
pub struct QueryState(Arc<Shared>);

/// The parts of the state.
#[derive(Debug)]
pub struct Shared {
    /// The log and the authenticator.
    pub api: ApiState,
    /// The log for queries of clients.
    query_log: EventLog,
    /// Wakes live streams when the log grows.
    pub follower: Follower,
    /// Progress of the read models.
    pub read_models: ReadModels,
    /// The newest metrics.
    pub latest: LatestMetrics,
    /// Metrics over time.
    pub influx: MetricReader,
    /// The broker, for requests of other roles and notifications of new output.
    pub nats: async_nats::Client,
    /// Blobs: bytes that are too large or too private for events.
    pub blobs: Blobs,
    /// Ends live streams.
    pub stop: CancellationToken,
    /// Limits the memory of point-in-time queries.
    pub point_in_time_permits: Arc<Semaphore>,
    /// The last point-in-time query: the next page of a list needs the same devices.
    pub last_snapshot: Arc<Mutex<Option<DeviceSnapshot>>>,
    /// Windows of lists of devices that live streams show.
    pub(crate) device_windows: DeviceWindows,
    /// Limits the live streams.
    pub streams: LiveStreams,
    /// Limits the number of stored list orders that a token starts.
    pub walk_rate: WalkRate,
    /// Reports of other processes that they cannot append to the log.
    pub append_reports: AppendReports,
}

impl Deref for QueryState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl QueryState {
    /// Creates the state from its parts.
    #[must_use]
    pub fn new(
        api: ApiState,
        follower: Follower,
        read_models: ReadModels,
        latest: LatestMetrics,
        influx: MetricReader,
        (nats, blobs, (streams, walk_rate)): (async_nats::Client, Blobs, (LiveStreams, WalkRate)),
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            query_log: api.log.for_queries(),
            streams,
            walk_rate,
            append_reports: AppendReports::default(),
            device_windows: DeviceWindows::default(),
            last_snapshot: Arc::default(),
            api,
            follower,
            read_models,
            latest,
            influx,
            nats,
            blobs,
            stop,
            point_in_time_permits: Arc::new(Semaphore::new(MAX_POINT_IN_TIME_QUERIES)),
        }))
    }

    /// Returns the event log.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.query_log
    }

    /// Returns the connection pool for read models.
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

/// Returns the problem of a failed query of a read model.
pub(crate) fn sql_problem(error: sqlx::Error) -> Problem {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            tracing::warn!(%error, "PostgreSQL is unavailable");
            Problem::unavailable("the database is unavailable; try again", 2)
        }
        error => Problem::internal(&error),
    }
}
