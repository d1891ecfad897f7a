//! The agent's status, for `muster-agent status` and `doctor`.
//!
//! A running agent responds on a socket in its data folder: that has no cost without requests,
//! whereas a status file would be written to flash every few seconds.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::shared::Shared;
use crate::clock::Moment;
use crate::local::Cause;

/// Timeout of reading or writing the few bytes of a request.
const IO_TIMEOUT: Duration = Duration::from_secs(2);

/// Status of the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Current epoch.
    pub epoch: u64,
    /// Sequence number of the newest recorded event.
    pub last_seq: u64,
    /// Sequence number of the newest event that the log has.
    pub confirmed: u64,
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
    fn from_shared(shared: &Shared) -> Self {
        let counts = shared.local_points.counts();
        let dropped =
            Cause::ALL.map(|cause| (cause.as_str().to_owned(), counts.dropped_for(cause)));
        Self {
            listening: shared.listeners.addresses(),
            problems: shared.listeners.problems(),
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
    pub config_version: u64,
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

impl Status {
    pub(crate) fn from_shared(shared: &Shared, is_running: bool) -> Self {
        let (identity, outbox, backlog) =
            (&shared.identity, shared.outbox.view(), shared.backlog.view());
        let (link, at) = (shared.link_state(), Moment::now());
        let credentials: Option<crate::identity::Credentials> =
            shared.store.get(crate::store::key::CREDENTIALS).unwrap_or_default();
        Self {
            is_running,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            url: identity.url.to_string(),
            project: identity.project.to_string(),
            device: identity.device.to_string(),
            name: identity.name.to_string(),
            enrolled_at: identity.enrolled_at,
            broker: link.connected.as_ref().map(|(_, _, broker)| broker.clone()),
            connected_since: link.connected.as_ref().map(|(_, since, _)| *since),
            credentials_until: credentials.as_ref().map(|current| current.response.expires_at),
            brokers: credentials.map(|current| current.response.servers).unwrap_or_default(),
            last_ack: link.last_ack,
            last_hello: link.last_hello,
            clock_skew_us: shared.anchor().and_then(|anchor| anchor.skew(&at)),
            config_version: shared.config_version(),
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
            local: LocalStatus::from_shared(shared),
            last_error: link.last_error,
            ca: crate::identity::to_pem(&identity.ca),
        }
    }
}

/// Path of a running agent's status socket.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("agent.sock")
}

/// Queries the agent that runs on a data folder; `None` if none runs.
///
/// # Errors
/// When an agent runs and does not respond.
pub async fn query_status(data: &Path) -> io::Result<Option<Status>> {
    let mut stream = match UnixStream::connect(socket_path(data)).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut json = Vec::new();
    tokio::time::timeout(IO_TIMEOUT, stream.read_to_end(&mut json)).await??;
    serde_json::from_slice(&json).map(Some).map_err(io::Error::other)
}

/// Serves status requests.
pub(super) async fn serve_status(shared: &Shared) {
    let path = socket_path(shared.store.folder().path());
    // The data folder is locked, so the agent that left this socket has ended.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %error,
                path = %path.display(),
                "failed to open the socket of `muster-agent status`"
            );
            return;
        }
    };
    // Other users may traverse the folder to reach the sockets for metrics.
    if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(
            %error,
            path = %path.display(),
            "failed to set the mode of the status socket"
        );
    }
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // For example, out of file descriptors.
            tokio::time::sleep(IO_TIMEOUT).await;
            continue;
        };
        let json = serde_json::to_vec(&Status::from_shared(shared, true)).unwrap_or_default();
        let reply = async {
            stream.write_all(&json).await?;
            stream.shutdown().await
        };
        if !matches!(tokio::time::timeout(IO_TIMEOUT, reply).await, Ok(Ok(()))) {
            tracing::debug!("a status client disconnected before the response");
        }
    }
}
