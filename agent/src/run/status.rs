//! What the agent knows of itself, for `muster-agent status` and `doctor`.
//!
//! A running agent answers on a socket in its data folder: that costs nothing while nobody asks,
//! where a file would be written to flash every few seconds.

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

/// A peer that does not take or give the few bytes in this time is left.
const LIMIT: Duration = Duration::from_secs(2);

/// How the outbox is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// The epoch.
    pub epoch: u64,
    /// The newest event that was recorded.
    pub last_seq: u64,
    /// The newest event that the log has.
    pub confirmed: u64,
    /// Events that the log does not have yet.
    pub unconfirmed: u64,
    /// Their size.
    pub unconfirmed_bytes: u64,
    /// Events that the log has and that are kept a while, in bytes.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Events that could not be recorded and are not declared yet.
    pub dropped: u64,
}

/// How the backlog of metrics is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacklogStatus {
    /// Batches that wait.
    pub batches: u64,
    /// Their size.
    pub bytes: u64,
    /// Batches that were dropped since the start.
    pub dropped: u64,
}

/// What applications on this machine wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Where they can write.
    pub listening: Vec<String>,
    /// What cannot be listened to, by config variable.
    pub problems: BTreeMap<String, String>,
    /// Points that were taken since the start.
    pub points: u64,
    /// Different series that are known.
    pub series: u64,
    /// Points that were dropped since the start, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Tags and fields that were left out, because the servers say them.
    pub tags_left_out: u64,
}

impl LocalStatus {
    fn of(shared: &Shared) -> Self {
        let counts = shared.intake.counts();
        let dropped =
            Cause::ALL.map(|cause| (cause.as_str().to_owned(), counts.dropped_for(cause)));
        Self {
            listening: shared.doors.places(),
            problems: shared.doors.problems(),
            points: counts.taken,
            series: counts.series,
            dropped: dropped.into_iter().filter(|(_, count)| *count > 0).collect(),
            tags_left_out: counts.left_out,
        }
    }
}

/// What is known of a device, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Does the agent run?
    pub is_running: bool,
    /// Its version.
    pub agent_version: String,
    /// Its servers.
    pub url: String,
    /// Its project.
    pub project: String,
    /// Its id.
    pub device: String,
    /// Its name when it enrolled.
    pub name: String,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// The broker that it is connected to.
    pub broker: Option<String>,
    /// Since when.
    pub connected_since: Option<Timestamp>,
    /// Until when its broker credentials work, by the server's clock.
    pub credentials_until: Option<Timestamp>,
    /// The broker's addresses.
    pub brokers: Vec<String>,
    /// When the log last confirmed events.
    pub last_ack: Option<Timestamp>,
    /// When the server last answered a hello.
    pub last_hello: Option<Timestamp>,
    /// The device's clock minus the server's, in microseconds.
    pub clock_skew_us: Option<i64>,
    /// The version of its config.
    pub config_version: u64,
    /// The outbox.
    pub outbox: OutboxStatus,
    /// The backlog.
    pub backlog: BacklogStatus,
    /// What applications wrote.
    #[serde(default)]
    pub local: LocalStatus,
    /// The last failure, and when.
    pub last_error: Option<(Timestamp, String)>,
    /// The pinned CA, PEM: public.
    pub ca: String,
}

impl Status {
    pub(crate) fn of(shared: &Shared, is_running: bool) -> Self {
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
            credentials_until: credentials.as_ref().map(|known| known.response.expires_at),
            brokers: credentials.map(|known| known.response.servers).unwrap_or_default(),
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
            local: LocalStatus::of(shared),
            last_error: link.last_error,
            ca: crate::identity::to_pem(&identity.ca),
        }
    }
}

/// Where a running agent answers.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("agent.sock")
}

/// Asks the agent that runs on a folder; `None` when none does.
///
/// # Errors
/// When one runs and does not answer.
pub async fn ask_status(data: &Path) -> io::Result<Option<Status>> {
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
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut json)).await??;
    serde_json::from_slice(&json).map(Some).map_err(io::Error::other)
}

/// Answers whoever asks for the status.
pub(super) async fn answer_status(shared: &Shared) {
    let path = socket_path(shared.store.folder().path());
    // The folder is locked, so whoever left this one is gone.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "`muster-agent status` will not be answered");
            return;
        }
    };
    // Others may go through the folder to where they write metrics.
    if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(%error, path = %path.display(), "its mode could not be set");
    }
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of file descriptors, say.
            tokio::time::sleep(LIMIT).await;
            continue;
        };
        let json = serde_json::to_vec(&Status::of(shared, true)).unwrap_or_default();
        let answer = async {
            stream.write_all(&json).await?;
            stream.shutdown().await
        };
        if !matches!(tokio::time::timeout(LIMIT, answer).await, Ok(Ok(()))) {
            tracing::debug!("somebody asked for the status and left");
        }
    }
}
