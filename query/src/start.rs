//! Start of the query role: projections, live metrics, the read API.

use std::num::{NonZeroU32, NonZeroUsize};

use async_recursion::async_recursion as boxed;
use muster_api::ApiState;
use muster_blobs::Blobs;
use muster_eventlog::projection::{Progress, Projection, Runner};
use muster_eventlog::tiles::TreeTiles;
use muster_eventlog::{EventLog, Follower, StoreError};
use muster_metric_store::{StoreError as MetricStoreError, StoreSettings};
use muster_schemas::SigningKey;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::append_reports;
use crate::grafana;
use crate::http;
use crate::influx::MetricReader;
use crate::latest::{LatestMetrics, follow, history};
use crate::live_streams::LiveStreams;
use crate::projections::devices::{self, Devices};
use crate::projections::operations::{self, Operations};
use crate::projections::projects::{self, Projects};
use crate::projections::sessions::{self, Sessions};
use crate::projections::timeline::{self, Timeline};
use crate::projections::tokens::{self, Tokens};
use crate::state::{QueryState, ReadModels};
use crate::targets;
use crate::walk_rate::WalkRate;

/// Dependencies and settings of the query role.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// The event log.
    pub log: EventLog,
    /// The broker, for the newest metrics; authenticated as a server.
    pub nats: async_nats::Client,
    /// Blobs: bytes that are too large or too private for events.
    pub blobs: Blobs,
    /// The metric store, which this role reads.
    pub influx: StoreSettings,
    /// Key with which this role signs its responses to command; without it, selectors of operations
    /// are not resolved.
    pub key: Option<SigningKey>,
    /// Maximum number of live streams and downloads of one token.
    pub streams_per_token: NonZeroUsize,
    /// Maximum number of lists of several pages by `last_seen_at` that a token starts in a minute.
    pub walks_per_minute: NonZeroU32,
    /// Stops all tasks.
    pub stop: CancellationToken,
}

/// The query role could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tables of a projection could not be created.
    #[error("failed to create the tables of the read models")]
    Tables(#[from] StoreError),
    /// The client of the metric store could not be created.
    #[error(transparent)]
    Influx(#[from] MetricStoreError),
}

/// The running query role.
#[derive(Debug)]
pub struct Query {
    /// Shared state of the handlers.
    pub state: QueryState,
    /// Tasks; they end after `stop`.
    pub tasks: JoinSet<()>,
}

impl Query {
    /// Creates the tables of the read models, and starts all tasks. InfluxDB and the broker may be
    /// unavailable: what needs them waits for them.
    ///
    /// # Errors
    /// When the tables cannot be created, or there is no TLS provider.
    #[boxed]
    pub async fn start(options: QueryOptions) -> Result<Self, StartError> {
        let QueryOptions {
            log,
            nats,
            blobs,
            influx,
            key,
            streams_per_token,
            walks_per_minute,
            stop,
        } = options;
        let influx = MetricReader::new(influx)?;
        // A failed start leaves nothing running, so that it can be retried.
        let own = stop.child_token();
        let undo = own.clone().drop_guard();
        let follower = Follower::start(&log, own);
        let latest = LatestMetrics::default();
        let mut work = ProjectionTasks {
            log: log.clone(),
            follower: follower.clone(),
            stop: stop.clone(),
            tasks: JoinSet::new(),
        };
        let read_models = ReadModels {
            devices: work.project(Devices::new(devices::TABLE)).await?,
            tokens: work.project(Tokens::new(tokens::TABLE)).await?,
            timeline: work.project(Timeline::new(timeline::TABLE)).await?,
            projects: work.project(Projects::new(projects::TABLE)).await?,
            operations: work.project(Operations::new(operations::TABLE)).await?,
            sessions: work.project(Sessions::new(sessions::TABLE)).await?,
        };
        work.project(TreeTiles::default()).await?;
        // A failure concerns only Grafana, so the query role starts anyway.
        if let Err(error) = grafana::publish(&log).await
            // Without the privilege, the views are those that `muster bootstrap` has created.
            && !grafana::is_forbidden(&error)
        {
            tracing::warn!(%error, "failed to create Grafana's views; its tables may be outdated");
        }
        let mut tasks = work.tasks;
        tasks.spawn(follow::run(nats.clone(), latest.clone(), stop.clone()));
        tasks.spawn(history::read(nats.clone(), latest.clone(), stop.clone()));
        tasks.spawn(follow::prune(log.clone(), latest.clone(), stop.clone()));
        let api = ApiState::new(log);
        let reporting = nats.clone();
        let limits = (LiveStreams::new(streams_per_token), WalkRate::new(walks_per_minute));
        let parts = (nats, blobs, limits);
        let state =
            QueryState::new(api, follower, read_models, latest, influx, parts, stop.clone());
        let reports = state.append_reports.clone();
        tasks.spawn(append_reports::run(reports, reporting, stop.clone()));
        tasks.spawn(targets::run(state.clone(), key, stop));
        undo.disarm();
        Ok(Self { state, tasks })
    }

    /// Returns the read API, with its part of the OpenAPI document.
    pub fn router(&self) -> OpenApiRouter {
        http::router(self.state.clone())
    }
}

/// Creates the tables of the read models and Grafana's views, for a role that may not create tables
/// itself.
///
/// # Errors
/// When they cannot be created.
#[boxed]
pub async fn create_tables(log: &EventLog) -> Result<(), StoreError> {
    Runner::open(log.clone(), Devices::new(devices::TABLE)).await?;
    Runner::open(log.clone(), Tokens::new(tokens::TABLE)).await?;
    Runner::open(log.clone(), Timeline::new(timeline::TABLE)).await?;
    Runner::open(log.clone(), Projects::new(projects::TABLE)).await?;
    Runner::open(log.clone(), Operations::new(operations::TABLE)).await?;
    Runner::open(log.clone(), Sessions::new(sessions::TABLE)).await?;
    Runner::open(log.clone(), TreeTiles::default()).await?;
    let failed = |source| StoreError::Sqlx { attempted: "create Grafana's views", source };
    grafana::publish(log).await.map_err(failed)
}

struct ProjectionTasks {
    log: EventLog,
    follower: Follower,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl ProjectionTasks {
    async fn project<P: Projection + Sync>(
        &mut self,
        projection: P,
    ) -> Result<Progress, StoreError> {
        let runner = Runner::open(self.log.clone(), projection).await?;
        let progress = runner.progress();
        self.tasks.spawn(runner.run(self.follower.clone(), self.stop.clone()));
        Ok(progress)
    }
}
