//! The agent as a whole: opened on a data folder, run until it is stopped.

use std::path::PathBuf;
use std::sync::Arc;

use muster_schemas::Event;
use tokio_util::sync::CancellationToken;

use super::inventory::report_inventory;
use super::pruning::prune_periodically;
use super::shared::{SetLevel, Shared};
use super::status::{Status, serve_status, socket_path};
use super::watchdog::feed_watchdog;
use crate::channels::{ChannelOptions, Channels, end_lost_sessions, record_ends, record_ends_now};
use crate::identity::Identity;
use crate::link::keep_connected;
use crate::local::listen_locally;
use crate::operations::{OperationOptions, Operations, interrupt, run_operations, send_outputs};
use crate::outbox::{Limits, Outbox, RecordError};
use crate::report::{Backlog, sample_and_send, send_backlog};
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
    shared: Arc<Shared>,
}

/// Records events in a running agent's outbox.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    /// Records an event that happens now; it is on disk when this returns.
    ///
    /// # Errors
    /// When the outbox is full or the disk fails.
    pub fn record(&self, event: &Event) -> Result<u64, RecordError> {
        self.shared.record(event)
    }
}

impl Agent {
    /// Opens an enrolled device's data folder.
    ///
    /// # Errors
    /// When another agent uses it, the device is not enrolled, or the folder cannot be read.
    pub fn open(options: AgentOptions) -> Result<Self, AgentError> {
        let not_enrolled = || AgentError::NotEnrolled { data: options.data.clone() };
        // Opening must not create anything in a folder without a device.
        if !Folder::database_in(&options.data).exists() {
            return Err(not_enrolled());
        }
        let store = Arc::new(Store::open(Folder::open(&options.data)?)?);
        let mut identity: Identity = store.get(key::IDENTITY)?.ok_or_else(not_enrolled)?;
        if let Some(url) = options.url.filter(|url| *url != identity.url) {
            identity.url = url;
            // The stored credentials name the broker's old addresses.
            store.write(|transaction| {
                put(transaction, key::IDENTITY, &identity)?;
                remove(transaction, key::CREDENTIALS)
            })?;
        }
        identity.operation_key().map_err(|error| AgentError::Identity(error.to_string()))?;
        let outbox = Outbox::open(
            Arc::clone(&store),
            identity.keys.signing(),
            identity.project.clone(),
            identity.device,
            identity.epoch,
            options.limits,
        )?;
        let backlog = Backlog::open(Arc::clone(&store), options.backlog_bytes)?;
        let channels = Channels::new(options.operations.policy.clone(), options.channels);
        let operations = Operations::open(&store, options.operations)?;
        let shared = Shared::new(
            identity,
            store,
            Arc::new(outbox),
            backlog,
            options.root,
            options.set_level,
            (operations, channels),
        )?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Identity of the device.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Returns a recorder of events, for use before and while the agent runs.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        Recorder { shared: Arc::clone(&self.shared) }
    }

    /// Returns the agent's status.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_shared(&self.shared, self.shared.link.receiver_count() > 0)
    }

    /// Whether the agent ended because of an order, and must be started again.
    #[must_use]
    pub fn is_restart_requested(&self) -> bool {
        self.shared.operations.restart.is_cancelled()
    }

    /// Runs until the agent is stopped or ordered to restart. Afterwards all pending data is on
    /// disk.
    ///
    /// # Errors
    /// When the last write fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AgentError> {
        let shared = &*self.shared;
        tracing::info!(
            device = %shared.identity.device,
            project = %shared.identity.project,
            url = %shared.identity.url,
            "the agent is running"
        );
        end_lost_sessions(shared);
        let forever = async {
            tokio::join!(
                keep_connected(shared),
                send_backlog(shared),
                report_inventory(shared),
                prune_periodically(shared),
                serve_status(shared),
                listen_locally(shared),
                run_operations(shared),
                send_outputs(shared),
                record_ends(shared),
                feed_watchdog(),
            )
        };
        let ending = stop.child_token();
        tokio::join!(
            async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = shared.operations.restart.cancelled() => {}
                    _ = forever => {}
                }
                ending.cancel();
            },
            sample_and_send(shared, &ending),
            async {
                ending.cancelled().await;
                shared.channels.close().await;
            },
        );
        interrupt(shared);
        record_ends_now(shared);
        shared.link.send_replace(None);
        shared.listeners.close(shared.store.folder().path());
        // This durable write also syncs the earlier writes with relaxed durability.
        shared.store.write(|_| Ok(()))?;
        let _ = std::fs::remove_file(socket_path(shared.store.folder().path()));
        tracing::info!("the agent has stopped");
        Ok(())
    }
}

/// Opens and runs an agent.
///
/// # Errors
/// As [`Agent::open`] and [`Agent::run`].
pub async fn run(options: AgentOptions, stop: CancellationToken) -> Result<(), AgentError> {
    Agent::open(options)?.run(stop).await
}
