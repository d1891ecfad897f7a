//! The agent's status, for `muster-agent status` and `doctor`.
//!
//! A running agent responds on a socket in its data folder: that has no cost without requests,
//! whereas a status file would be written to flash every few seconds.

mod socket;

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_schemas::{ConfigVersion, Epoch, Seq, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use self::socket::serve_status;
pub use self::socket::{query_status, socket_path};
use crate::clock::{Moment, ServerClock};
use crate::config::DeviceConfig;
use crate::connection::Connection;
use crate::identity::{Credentials, Identity, to_pem};
use crate::local::{Cause, LocalMetrics};
use crate::outbox::Outbox;
use crate::report::Backlog;
use crate::store::{Store, key};

/// Status of the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Current epoch.
    pub epoch: Epoch,
    /// Sequence number of the newest recorded event.
    pub last_seq: Seq,
    /// Sequence number of the newest event that the log has.
    pub confirmed: Seq,
    /// Number of events that the log does not have yet.
    pub unconfirmed: u64,
    /// Size of these events, in bytes.
    pub unconfirmed_bytes: u64,
    /// Size of the kept events that the log has, in bytes.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Number of events that could not be recorded and are not declared yet.
    pub dropped: u64,
}

/// Status of the backlog of metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacklogStatus {
    /// Number of waiting batches.
    pub batches: u64,
    /// Size of these batches, in bytes.
    pub bytes: u64,
    /// Number of batches that were dropped since the start.
    pub dropped: u64,
}

/// Status of the metrics that applications on this machine write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Addresses of the listeners.
    pub listening: Vec<String>,
    /// Listeners that could not be opened, by config variable.
    pub problems: BTreeMap<String, String>,
    /// Number of points that were accepted since the start.
    pub points: u64,
    /// Number of distinct active series.
    pub series: u64,
    /// Number of points that were dropped since the start, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Number of tags and fields that were removed because the servers set them.
    pub tags_left_out: u64,
}

impl LocalStatus {
    fn read(local: &LocalMetrics) -> Self {
        let (counts, listeners) = (local.points().counts(), local.listeners());
        let dropped =
            Cause::ALL.map(|cause| (cause.as_str().to_owned(), counts.dropped_for(cause)));
        Self {
            listening: listeners.addresses(),
            problems: listeners.problems(),
            points: counts.accepted,
            series: counts.series,
            dropped: dropped.into_iter().filter(|(_, count)| *count > 0).collect(),
            tags_left_out: counts.removed_entries,
        }
    }
}

/// Status of a device, whether or not its agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the agent runs.
    pub is_running: bool,
    /// Version of the agent.
    pub agent_version: String,
    /// Address of its servers.
    pub url: String,
    /// Project of the device.
    pub project: String,
    /// Id of the device.
    pub device: String,
    /// Name of the device when it enrolled.
    pub name: String,
    /// Time of the enrollment.
    pub enrolled_at: Timestamp,
    /// The broker that it is connected to.
    pub broker: Option<String>,
    /// Time of the connection.
    pub connected_since: Option<Timestamp>,
    /// Expiry of its broker credentials, by the server's clock.
    pub credentials_until: Option<Timestamp>,
    /// Addresses of the broker.
    pub brokers: Vec<String>,
    /// Time of the log's last confirmation of events.
    pub last_ack: Option<Timestamp>,
    /// Time of the last successful hello.
    pub last_hello: Option<Timestamp>,
    /// The device's clock minus the server's, in microseconds.
    pub clock_skew_us: Option<i64>,
    /// Version of its config.
    pub config_version: ConfigVersion,
    /// The outbox.
    pub outbox: OutboxStatus,
    /// The backlog.
    pub backlog: BacklogStatus,
    /// Metrics from applications.
    #[serde(default)]
    pub local: LocalStatus,
    /// The last failure with its time.
    pub last_error: Option<(Timestamp, String)>,
    /// The pinned CA, PEM: public.
    pub ca: String,
}

/// The parts of an agent whose state the status contains.
#[derive(Clone)]
pub(crate) struct StatusSource {
    pub(crate) identity: Arc<Identity>,
    pub(crate) store: Arc<Store>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) local: Arc<LocalMetrics>,
    pub(crate) config: Arc<DeviceConfig>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) clock: Arc<ServerClock>,
}

impl StatusSource {
    /// Returns the current status.
    pub(crate) fn read(&self, is_running: bool) -> Status {
        let (identity, outbox, backlog) = (&self.identity, self.outbox.view(), self.backlog.view());
        let connection = self.connection.state();
        let credentials: Option<Credentials> = self.store.get(key::CREDENTIALS).unwrap_or_default();
        Status {
            is_running,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            url: identity.url.to_string(),
            project: identity.project.to_string(),
            device: identity.device.to_string(),
            name: identity.name.to_string(),
            enrolled_at: identity.enrolled_at,
            broker: connection.connected.as_ref().map(|open| open.broker.clone()),
            connected_since: connection.connected.as_ref().map(|open| open.at),
            credentials_until: credentials.as_ref().map(|current| current.response.expires_at),
            brokers: credentials.map(|current| current.response.servers).unwrap_or_default(),
            last_ack: connection.last_ack,
            last_hello: connection.last_hello,
            clock_skew_us: self.clock.skew(&Moment::now()),
            config_version: self.config.version(),
            outbox: OutboxStatus {
                epoch: outbox.epoch,
                last_seq: outbox.last_seq,
                confirmed: outbox.confirmed,
                unconfirmed: outbox.unconfirmed(),
                unconfirmed_bytes: outbox.unconfirmed_bytes,
                kept_bytes: outbox.kept_bytes,
                dropped: outbox.dropped,
            },
            backlog: BacklogStatus {
                batches: backlog.batches,
                bytes: backlog.bytes,
                dropped: backlog.dropped,
            },
            local: LocalStatus::read(&self.local),
            last_error: connection.last_error,
            ca: to_pem(&identity.ca),
        }
    }
}
