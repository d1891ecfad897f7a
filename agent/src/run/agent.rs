//! The agent as a whole: opened on a data folder, run until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;

use muster_schemas::Event;
use tokio_util::sync::CancellationToken;

use super::inventory::report_inventory;
use super::shared::{SetLevel, Shared};
use super::status::{Status, answer_status, socket_path};
use super::upkeep::keep_house;
use super::watchdog::feed_watchdog;
use crate::channels::{ChannelOptions, Channels, end_lost_sessions, record_ends, record_ends_now};
use crate::identity::Identity;
use crate::link::keep_connected;
use crate::local::listen_locally;
use crate::operations::{OperationOptions, Operations, interrupt, perform, send_outputs};
use crate::outbox::{Limits, Outbox, RecordError};
use crate::report::{Backlog, sample_and_send, send_backlog};
use crate::store::{Folder, Store, StoreError, key, put, remove};

/// How an agent is run.
#[derive(Clone)]
pub struct AgentOptions {
    /// The data folder.
    pub data: PathBuf,
    /// Where the servers are now, when they have moved.
    pub url: Option<url::Url>,
    /// Where the machine is that is measured: `/`, or a folder of fixtures.
    pub root: PathBuf,
    /// How much the outbox holds.
    pub limits: Limits,
    /// How much the backlog of metrics holds, in bytes.
    pub backlog_bytes: u64,
    /// Sets the log level when the config variable `log.level` says so.
    pub set_level: SetLevel,
    /// How operations are carried out.
    pub operations: OperationOptions,
    /// How channels are carried.
    pub channels: ChannelOptions,
}

impl AgentOptions {
    /// An agent of this machine on a data folder, with the default limits.
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

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It is not enrolled.
    #[error(
        "this device is not enrolled ({} holds no identity); run `muster-agent enroll --url https://HOST:PORT TOKEN` first",
        data.display()
    )]
    NotEnrolled {
        /// The data folder.
        data: PathBuf,
    },
    /// The data folder failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was pinned cannot be used.
    #[error(
        "the stored identity cannot be used ({0}); restore the data folder from a backup, or enroll again with --force"
    )]
    Identity(String),
}

/// An agent that is ready to run.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

/// Records events into a running agent's outbox.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    /// Records an event that happens now; when this returns it is on the disk.
    ///
    /// # Errors
    /// When there is no room, or the disk does not take it.
    pub fn record(&self, event: &Event) -> Result<u64, RecordError> {
        self.shared.record(event)
    }
}

impl Agent {
    /// Opens an enrolled device's data folder.
    ///
    /// # Errors
    /// When another agent has it, it is not enrolled, or cannot be read.
    pub fn open(options: AgentOptions) -> Result<Self, AgentError> {
        let not_enrolled = || AgentError::NotEnrolled { data: options.data.clone() };
        // Asking after a device leaves nothing behind where there is none.
        if !Folder::database_in(&options.data).exists() {
            return Err(not_enrolled());
        }
        let store = Arc::new(Store::open(Folder::open(&options.data)?)?);
        let mut identity: Identity = store.get(key::IDENTITY)?.ok_or_else(not_enrolled)?;
        if let Some(url) = options.url.filter(|url| *url != identity.url) {
            identity.url = url;
            // The credentials of before name the broker's old addresses.
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

    /// Who the device is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Records events, before and while the agent runs.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        Recorder { shared: Arc::clone(&self.shared) }
    }

    /// What the agent knows of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(&self.shared, self.shared.link.receiver_count() > 0)
    }

    /// Did it end because it was ordered to, and shall be started again?
    #[must_use]
    pub fn wants_restart(&self) -> bool {
        self.shared.operations.restart.is_cancelled()
    }

    /// Runs until it is told to stop, or ordered to start again; then what is on its way is kept, and all is on the disk.
    ///
    /// # Errors
    /// When the last write fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AgentError> {
        let shared = &*self.shared;
        tracing::info!(
            device = %shared.identity.device,
            project = %shared.identity.project,
            url = %shared.identity.url,
            "the agent runs"
        );
        end_lost_sessions(shared);
        let forever = async {
            tokio::join!(
                keep_connected(shared),
                send_backlog(shared),
                report_inventory(shared),
                keep_house(shared),
                answer_status(shared),
                listen_locally(shared),
                perform(shared),
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
        shared.doors.close(shared.store.folder().path());
        // What was written relaxed goes down with this one.
        shared.store.write(|_| Ok(()))?;
        let _ = std::fs::remove_file(socket_path(shared.store.folder().path()));
        tracing::info!("the agent stopped");
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
