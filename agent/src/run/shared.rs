//! State that the agent's parts share: the device, its queues, its clock, its connection.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use muster_channel::Publisher;
use muster_schemas::names::ConfigVars;
use muster_schemas::{Event, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::counters::Counters;
use super::settings::{self, Settings};
use crate::channels::Channels;
use crate::clock::{Anchor, Moment};
use crate::identity::Identity;
use crate::local::{Listeners, PointQueue};
use crate::metrics::AgentCounters;
use crate::operations::Operations;
use crate::outbox::{Outbox, RecordError};
use crate::report::{Backlog, Queued};
use crate::store::{Store, StoreError, key, write_private};

/// Sets the log level, or returns the reason why it cannot.
pub(crate) type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The current config of the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) version: u64,
    pub(crate) vars: ConfigVars,
}

/// The state of the connection, for the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkState {
    pub(crate) connected: Option<(Instant, Timestamp, String)>,
    pub(crate) last_ack: Option<Timestamp>,
    pub(crate) last_hello: Option<Timestamp>,
    pub(crate) last_error: Option<(Timestamp, String)>,
}

/// State that more than one part needs.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) store: Arc<Store>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) backlog: Backlog,
    pub(crate) root: PathBuf,
    pub(crate) counters: Counters,
    pub(crate) settings: watch::Sender<Settings>,
    /// Metrics from applications.
    pub(crate) local_points: PointQueue,
    /// The listeners for applications.
    pub(crate) listeners: Listeners,
    /// The connection to the broker, if there is one.
    pub(crate) link: watch::Sender<Option<Publisher>>,
    /// Notified when an event was recorded.
    pub(crate) recorded: Arc<Notify>,
    /// Notified when a batch was added to the backlog.
    pub(crate) backlog_grew: Notify,
    pub(crate) set_level: SetLevel,
    /// The open operations of this device.
    pub(crate) operations: Operations,
    /// The open channels of this device.
    pub(crate) channels: Arc<Channels>,
    anchor: Mutex<Option<Anchor>>,
    config: Mutex<Config>,
    link_state: Mutex<LinkState>,
}

impl Shared {
    pub(crate) fn new(
        identity: Identity,
        store: Arc<Store>,
        outbox: Arc<Outbox>,
        backlog: Backlog,
        root: PathBuf,
        set_level: SetLevel,
        (operations, channels): (Operations, Arc<Channels>),
    ) -> Result<Self, StoreError> {
        let config: Config = store.get(key::CONFIG)?.unwrap_or_default();
        let anchor = store.get(key::ANCHOR)?;
        let (settings, _) = settings::read(&config.vars, &*set_level);
        let intake = PointQueue::default();
        intake.set(settings.quota, settings.groups);
        Ok(Self {
            identity,
            store,
            outbox,
            backlog,
            root,
            counters: Counters::default(),
            settings: watch::Sender::new(settings),
            local_points: intake,
            listeners: Listeners::default(),
            link: watch::Sender::new(None),
            recorded: Arc::default(),
            backlog_grew: Notify::new(),
            set_level,
            operations,
            channels,
            anchor: Mutex::new(anchor),
            config: Mutex::new(config),
            link_state: Mutex::new(LinkState::default()),
        })
    }

    /// Records an event that happens now.
    pub(crate) fn record(&self, event: &Event) -> Result<u64, RecordError> {
        let seq = self.outbox.record(event, Moment::now())?;
        self.recorded.notify_one();
        Ok(seq)
    }

    /// Keeps a batch that the broker does not have.
    pub(crate) fn queue_batch(&self, queued: &Queued) {
        self.backlog.push(queued);
        self.backlog_grew.notify_one();
    }

    pub(crate) fn anchor(&self) -> Option<Anchor> {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a newer relation to the server's clock.
    pub(crate) fn set_anchor(&self, anchor: Anchor) {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner) = Some(anchor);
        if let Err(error) = self.store.put_relaxed(key::ANCHOR, &anchor) {
            tracing::debug!(%error, "failed to store the server's time");
        }
    }

    pub(crate) fn server_time(&self, at: &Moment) -> Option<Timestamp> {
        self.anchor()?.server_time(at)
    }

    /// Returns the best known time.
    pub(crate) fn time(&self, at: &Moment) -> Timestamp {
        self.server_time(at).unwrap_or(at.wall)
    }

    pub(crate) fn config_version(&self) -> u64 {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).version
    }

    pub(crate) fn config_vars(&self) -> ConfigVars {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).vars.clone()
    }

    /// Applies these config variables, if their version is newer.
    pub(crate) fn apply_config(&self, version: u64, vars: &ConfigVars) -> Result<(), StoreError> {
        if version <= self.config_version() {
            return Ok(());
        }
        let (settings, mut errors) = settings::read(vars, &*self.set_level);
        self.local_points.set(settings.quota, settings.groups);
        for (variable, problem) in
            self.listeners.set(settings.listeners, self.store.folder().path())
        {
            tracing::warn!(variable, problem, "failed to open a metric socket for applications");
            // A problem with a default setting is reported only in the status.
            if vars.keys().any(|key| key.as_str() == variable) {
                errors.entry(variable).or_insert(problem);
            }
        }
        let config = Config { version, vars: vars.clone() };
        // For the applications: they read the file, which is replaced atomically.
        let json = serde_json::json!({"version": version, "vars": vars}).to_string();
        write_private(&self.store.folder().path().join("config.json"), json.as_bytes())?;
        let event = muster_schemas::events::DeviceConfigApplied { version, errors }.into();
        let beside = Some((key::CONFIG, &config));
        if let Err(error) = self.outbox.record_with(&event, Moment::now(), beside) {
            tracing::warn!(%error, "failed to report the applied config");
            self.store.put(key::CONFIG, &config)?;
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        self.settings.send_replace(settings);
        self.recorded.notify_one();
        tracing::info!(version, "applied new config variables");
        self.rotate_if_requested();
        Ok(())
    }

    /// Restores the log level of the config, after a temporary one.
    pub(crate) fn reset_level(&self) {
        let _ = settings::read(&self.config_vars(), &*self.set_level);
    }

    /// Creates a new signing key, if it was requested and is possible now.
    pub(crate) fn rotate_if_requested(&self) {
        let Some(request) = self.settings.borrow().key_rotation_request else { return };
        match self.outbox.rotate(request, Moment::now()) {
            Ok(true) => {
                tracing::info!("the device has a new signing key");
                self.recorded.notify_one();
            }
            Ok(false) => {}
            // The next welcome, ack or config triggers another attempt.
            Err(error) => tracing::warn!(%error, "failed to create a new signing key"),
        }
    }

    pub(crate) fn link_state(&self) -> LinkState {
        self.link_state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn with_link_state(&self, change: impl FnOnce(&mut LinkState)) {
        change(&mut self.link_state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Stores a failure for the status.
    pub(crate) fn set_last_error(&self, error: &str) {
        let now = Moment::now().wall;
        self.with_link_state(|state| state.last_error = Some((now, error.to_owned())));
    }

    pub(crate) fn agent_counters(&self, at: &Moment) -> AgentCounters {
        let (outbox, backlog, link) = (self.outbox.view(), self.backlog.view(), self.link_state());
        let mut counters = AgentCounters {
            outbox_events: outbox.unconfirmed(),
            outbox_bytes: outbox.unconfirmed_bytes,
            outbox_dropped: outbox.dropped,
            backlog_batches: backlog.batches,
            backlog_bytes: backlog.bytes,
            backlog_dropped: backlog.dropped,
            local: self.local_points.counts(),
            clock_skew_us: self.anchor().and_then(|anchor| anchor.skew(at)).unwrap_or(0),
            connected_seconds: link.connected.map_or(0, |(since, _, _)| since.elapsed().as_secs()),
            ..AgentCounters::default()
        };
        let client = self.link.borrow().as_ref().map(|link| link.client().clone());
        self.counters.fill(&mut counters, client.as_ref());
        counters
    }
}
