//! The agent as a whole: opened on a data folder, run until it is stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::diagnostics::collect_diagnostics;
use super::pruning::prune_periodically;
use super::watchdog::feed_watchdog;
use crate::channels::{ChannelOpener, ChannelOptions, Channels};
use crate::clock::ServerClock;
use crate::config::DeviceConfig;
use crate::connection::Connection;
use crate::identity::Identity;
use crate::inventory::report_inventory;
use crate::link::{BrokerCredentials, Link, keep_connected};
use crate::local::LocalMetrics;
use crate::log_level::{LogLevel, SetLevel};
use crate::operations::{CollectDiagnostics, Dependencies, OperationOptions, Operations, Orders};
use crate::outbox::{Limits, Outbox, Recorder};
use crate::report::{Backlog, Sampler, send_backlog};
use crate::status::{Status, StatusSource, serve_status, socket_path};
use crate::store::{Folder, Store, StoreError, key, put, remove};

/// Options of an agent.
#[derive(Clone)]
pub struct AgentOptions {
    /// The data folder.
    pub data: PathBuf,
    /// Address of the servers, if it has changed since the enrollment.
    pub url: Option<url::Url>,
    /// Root of the measured system: `/`, or a folder of fixtures.
    pub root: PathBuf,
    /// Capacity of the outbox.
    pub limits: Limits,
    /// Capacity of the backlog of metrics, in bytes.
    pub backlog_bytes: u64,
    /// Sets the log level from the config variable `log.level`.
    pub set_level: SetLevel,
    /// Options of operations.
    pub operations: OperationOptions,
    /// Options of channels.
    pub channels: ChannelOptions,
}

impl AgentOptions {
    /// Options for an agent of this machine on a data folder, with the default limits.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            url: None,
            root: "/".into(),
            limits: Limits::default(),
            backlog_bytes: 32 << 20,
            set_level: Arc::new(|_| Ok(())),
            operations: OperationOptions::default(),
            channels: ChannelOptions::default(),
        }
    }
}

/// The reason why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The device is not enrolled.
    #[error(
        "this device is not enrolled ({} contains no identity); run `muster-agent enroll --url \
         https://HOST:PORT` with a token first",
        data.display()
    )]
    NotEnrolled {
        /// The data folder.
        data: PathBuf,
    },
    /// Accessing the data folder failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pinned CA cannot be used.
    #[error(
        "the stored identity is invalid ({0}); restore the data folder from a backup, or enroll \
         again with --force"
    )]
    Identity(String),
}

/// An agent that is ready to run.
#[derive(Clone)]
pub struct Agent {
    parts: Arc<Parts>,
}

/// The parts of an agent.
struct Parts {
    identity: Arc<Identity>,
    store: Arc<Store>,
    recorder: Recorder,
    connection: Arc<Connection>,
    clock: Arc<ServerClock>,
    local: Arc<LocalMetrics>,
    backlog: Arc<Backlog>,
    sampler: Sampler,
    operations: Operations,
    channels: Arc<Channels>,
    link: Link,
    status: StatusSource,
    is_running: AtomicBool,
}

/// Opens the identity of an enrolled device, with the current address of its servers.
fn open_identity(store: &Store, options: &AgentOptions) -> Result<Identity, AgentError> {
    let not_enrolled = || AgentError::NotEnrolled { data: options.data.clone() };
    let mut identity: Identity = store.get(key::IDENTITY)?.ok_or_else(not_enrolled)?;
    if let Some(url) = options.url.clone().filter(|url| *url != identity.url) {
        identity.url = url;
        // The stored credentials name the broker's old addresses.
        store.write(|transaction| {
            put(transaction, key::IDENTITY, &identity)?;
            remove(transaction, key::CREDENTIALS)
        })?;
    }
    identity.operation_key().map_err(|error| AgentError::Identity(error.to_string()))?;
    Ok(identity)
}

/// The parts that other parts use, while these are created.
struct Base {
    identity: Arc<Identity>,
    store: Arc<Store>,
    outbox: Arc<Outbox>,
    recorder: Recorder,
    backlog: Arc<Backlog>,
    clock: Arc<ServerClock>,
    connection: Arc<Connection>,
    log_level: Arc<LogLevel>,
    local: Arc<LocalMetrics>,
    config: Arc<DeviceConfig>,
}

impl Base {
    fn open(
        store: Arc<Store>,
        identity: Arc<Identity>,
        options: &AgentOptions,
    ) -> Result<Self, StoreError> {
        let outbox = Arc::new(Outbox::open(
            Arc::clone(&store),
            identity.keys.signing(),
            identity.project.clone(),
            identity.device,
            identity.epoch,
            options.limits,
        )?);
        let recorder = Recorder::new(Arc::clone(&outbox));
        let backlog = Arc::new(Backlog::open(Arc::clone(&store), options.backlog_bytes)?);
        let clock = Arc::new(ServerClock::open(Arc::clone(&store))?);
        let log_level = Arc::new(LogLevel::new(Arc::clone(&options.set_level)));
        let local = Arc::new(LocalMetrics::new(store.folder().path()));
        let config = Arc::new(DeviceConfig::open(
            Arc::clone(&store),
            recorder.clone(),
            Arc::clone(&log_level),
            Arc::clone(&local),
        )?);
        Ok(Self {
            identity,
            store,
            outbox,
            recorder,
            backlog,
            clock,
            connection: Arc::new(Connection::new()),
            log_level,
            local,
            config,
        })
    }

    fn status(&self) -> StatusSource {
        StatusSource {
            identity: Arc::clone(&self.identity),
            store: Arc::clone(&self.store),
            outbox: Arc::clone(&self.outbox),
            backlog: Arc::clone(&self.backlog),
            local: Arc::clone(&self.local),
            config: Arc::clone(&self.config),
            connection: Arc::clone(&self.connection),
            clock: Arc::clone(&self.clock),
        }
    }

    /// Creates the sampler; `root` is the root of the measured system.
    fn sampler(&self, root: PathBuf) -> Sampler {
        Sampler {
            identity: Arc::clone(&self.identity),
            root,
            settings: self.config.samples(),
            local: Arc::clone(&self.local),
            backlog: Arc::clone(&self.backlog),
            outbox: Arc::clone(&self.outbox),
            connection: Arc::clone(&self.connection),
            clock: Arc::clone(&self.clock),
        }
    }

    fn operations(
        &self,
        collect_diagnostics: CollectDiagnostics,
        options: OperationOptions,
    ) -> Result<Operations, StoreError> {
        let dependencies = Dependencies {
            identity: Arc::clone(&self.identity),
            store: Arc::clone(&self.store),
            recorder: self.recorder.clone(),
            connection: Arc::clone(&self.connection),
            clock: Arc::clone(&self.clock),
            log_level: Arc::clone(&self.log_level),
            max_concurrent_runs: self.config.max_concurrent_runs(),
            collect_diagnostics,
        };
        Operations::open(dependencies, options)
    }

    /// Creates the connection, with the receivers of the servers' messages.
    fn link(&self, orders: Arc<Orders>, channels: Arc<Channels>) -> Link {
        Link {
            identity: Arc::clone(&self.identity),
            credentials: BrokerCredentials {
                identity: Arc::clone(&self.identity),
                store: Arc::clone(&self.store),
                outbox: Arc::clone(&self.outbox),
                clock: Arc::clone(&self.clock),
            },
            recorder: self.recorder.clone(),
            connection: Arc::clone(&self.connection),
            clock: Arc::clone(&self.clock),
            config: Arc::clone(&self.config),
            orders,
            channels: ChannelOpener {
                identity: Arc::clone(&self.identity),
                outbox: Arc::clone(&self.outbox),
                store: Arc::clone(&self.store),
                clock: Arc::clone(&self.clock),
                connection: Arc::clone(&self.connection),
                channels,
            },
        }
    }
}

impl Parts {
    fn open(
        store: Arc<Store>,
        identity: Arc<Identity>,
        options: AgentOptions,
    ) -> Result<Self, StoreError> {
        let base = Base::open(store, identity, &options)?;
        let status = base.status();
        let sampler = base.sampler(options.root.clone());
        let channels = Channels::new(
            options.operations.policy.clone(),
            options.channels,
            Arc::clone(&base.store),
            base.recorder.clone(),
        );
        let diagnostics = diagnostics_of(status.clone(), options.root);
        let operations = base.operations(diagnostics, options.operations)?;
        let link = base.link(operations.orders(), Arc::clone(&channels));
        let Base { identity, store, recorder, connection, clock, local, backlog, .. } = base;
        Ok(Self {
            identity,
            store,
            recorder,
            connection,
            clock,
            local,
            backlog,
            sampler,
            operations,
            channels,
            link,
            status,
            is_running: AtomicBool::new(false),
        })
    }
}

/// Returns the function that collects the diagnostics archive of a running agent.
fn diagnostics_of(source: StatusSource, root: PathBuf) -> CollectDiagnostics {
    Box::new(move || {
        let (source, root) = (source.clone(), root.clone());
        Box::pin(async move {
            let (status, vars) = (source.read(true), source.config.vars());
            collect_diagnostics(status, vars, source.store.folder().path(), root).await
        })
    })
}

impl Agent {
    /// Opens an enrolled device's data folder.
    ///
    /// # Errors
    /// When another agent uses it, the device is not enrolled, or the folder cannot be read.
    pub fn open(options: AgentOptions) -> Result<Self, AgentError> {
        // Opening must not create anything in a folder without a device.
        if !Folder::database_in(&options.data).exists() {
            return Err(AgentError::NotEnrolled { data: options.data });
        }
        let store = Arc::new(Store::open(Folder::open(&options.data)?)?);
        let identity = Arc::new(open_identity(&store, &options)?);
        Ok(Self { parts: Arc::new(Parts::open(store, identity, options)?) })
    }

    /// Identity of the device.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.parts.identity
    }

    /// Returns a recorder of events, for use before and while the agent runs.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.parts.recorder.clone()
    }

    /// Returns the agent's status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.parts.status.read(self.parts.is_running.load(Ordering::Relaxed))
    }

    /// Whether the agent ended because of an order, and must be started again.
    #[must_use]
    pub fn is_restart_requested(&self) -> bool {
        self.parts.operations.restart().is_cancelled()
    }

    /// Runs until the agent is stopped or ordered to restart. Afterwards all pending data is on
    /// disk.
    ///
    /// # Errors
    /// When the last write fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AgentError> {
        let parts = &*self.parts;
        let data = parts.store.folder().path();
        tracing::info!(
            device = %parts.identity.device,
            project = %parts.identity.project,
            url = %parts.identity.url,
            "the agent is running"
        );
        let running = RunningMark::set(&parts.is_running);
        parts.channels.ends.end_lost_sessions();
        Box::pin(parts.run_until(stop)).await;
        parts.operations.interrupt();
        parts.channels.ends.record_now();
        parts.connection.close();
        parts.local.close();
        // This durable write also syncs the earlier writes with relaxed durability.
        parts.store.write(|_| Ok(()))?;
        let _ = std::fs::remove_file(socket_path(data));
        drop(running);
        tracing::info!("the agent has stopped");
        Ok(())
    }
}

/// Marks the agent as running until it is dropped.
struct RunningMark<'a>(&'a AtomicBool);

impl<'a> RunningMark<'a> {
    fn set(is_running: &'a AtomicBool) -> Self {
        is_running.store(true, Ordering::Relaxed);
        Self(is_running)
    }
}

impl Drop for RunningMark<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Parts {
    /// Runs the parts until the agent is stopped or ordered to restart.
    async fn run_until(&self, stop: CancellationToken) {
        let data = self.store.folder().path();
        let outbox = self.recorder.outbox();
        let forever = async {
            tokio::join!(
                keep_connected(&self.link),
                send_backlog(&self.identity, &self.connection, &self.clock, &self.backlog),
                report_inventory(&self.sampler.root, &self.store, &self.recorder),
                prune_periodically(outbox, &self.clock, &self.operations),
                serve_status(data, || self.status.read(true)),
                self.local.listen(),
                self.operations.run(),
                self.operations.send_outputs(),
                self.channels.ends.record(),
                feed_watchdog(),
            )
        };
        let ending = stop.child_token();
        tokio::join!(
            async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.operations.restart().cancelled() => {}
                    _ = forever => {}
                }
                ending.cancel();
            },
            self.sampler.run(&ending),
            async {
                ending.cancelled().await;
                self.channels.close().await;
            },
        );
    }
}

/// Opens and runs an agent.
///
/// # Errors
/// As [`Agent::open`] and [`Agent::run`].
pub async fn run(options: AgentOptions, stop: CancellationToken) -> Result<(), AgentError> {
    Agent::open(options)?.run(stop).await
}
