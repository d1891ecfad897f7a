//! Access to a device's files: an SFTP session over a websocket, which reconnects when it is lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use muster_client::RequestError;
use muster_client::{Client, segment};
use muster_schemas::wire::SFTP_SHA256;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as Sftp;
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::protocol::{Packet, StatusCode};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use crate::commands::connect::transfer;

/// Capacity of the buffer between the session and the websocket in each direction, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;
/// Timeout of a request, in seconds, after which the connection is lost; lines may be slow.
const REQUEST_TIMEOUT_SECS: u64 = 300;
/// Maximum number of reads and writes in flight, for all files: 2 MiB.
const MAX_REQUESTS_IN_FLIGHT: usize = 16;
/// Maximum number of attempts to reconnect: after 1, 2, 4, 8, then every 10 s.
const MAX_RECONNECTS: u32 = 30;

/// Extension that renames over an existing file.
const RENAME: &str = "posix-rename@openssh.com";

/// Returns the API path of a device's files.
pub(super) fn files(device: &str) -> String {
    format!("/api/v1/devices/{}/files", segment(device))
}

/// Error of a file operation.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The connection was lost; the operation can continue after a reconnection.
    #[error("the connection to the device was lost")]
    Lost,
    /// This file cannot be copied.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// An SFTP session.
pub(super) struct Session {
    pub(super) sftp: RawSftpSession,
    lost: CancellationToken,
    in_flight: Semaphore,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("is_lost", &self.lost.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// Access to the files of a device.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    /// Name of the device, as given on the command line.
    pub(super) device: String,
    path: String,
    is_writable: bool,
    session: Mutex<Arc<Session>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.sftp.close_session();
    }
}

impl Session {
    async fn open(
        client: &Client,
        device: &str,
        path: &str,
        write: bool,
    ) -> Result<Self, CopyError> {
        let query = [("path", path.to_owned()), ("writable", write.to_string())];
        let socket = client.socket(&files(device), &query).await?;
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let lost = CancellationToken::new();
        let guard = lost.clone().drop_guard();
        tokio::spawn(async move {
            let (read, write) = tokio::io::split(theirs);
            if let Err(error) = transfer(socket, read, write).await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "a connection for file transfer has ended"
                );
            }
            drop(guard);
        });
        let sftp = RawSftpSession::new(ours);
        sftp.set_timeout(REQUEST_TIMEOUT_SECS);
        let session = Self { sftp, lost, in_flight: Semaphore::new(MAX_REQUESTS_IN_FLIGHT) };
        let version = session.require("failed to start SFTP", session.sftp.init()).await?;
        if !version.extensions.contains_key(SFTP_SHA256) {
            return Err(anyhow!("the device's agent does not support {SFTP_SHA256}").into());
        }
        Ok(session)
    }

    /// Returns the response to a request.
    async fn request<T>(
        &self,
        request: impl Future<Output = SftpResult<T>>,
    ) -> Result<Result<T, Sftp>, CopyError> {
        let result = tokio::select! {
            result = request => result,
            () = self.lost.cancelled() => return Err(CopyError::Lost),
        };
        match result {
            Err(Sftp::Status(status)) => Ok(Err(Sftp::Status(status))),
            Err(Sftp::Timeout) => {
                self.lost.cancel();
                Err(CopyError::Lost)
            }
            Err(error) if !self.lost.is_cancelled() => Err(CopyError::Failed(device_error(error))),
            Err(_) => Err(CopyError::Lost),
            Ok(result) => Ok(Ok(result)),
        }
    }

    /// Sends a request; a refusal is an error of the attempted operation.
    pub(super) async fn require<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = SftpResult<T>>,
    ) -> Result<T, CopyError> {
        let result = self.request(request).await?;
        Ok(result.map_err(device_error).context(operation)?)
    }

    /// As [`Self::need`]; `None` if the file does not exist, or at its end.
    pub(super) async fn find<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = SftpResult<T>>,
    ) -> Result<Option<T>, CopyError> {
        match self.request(request).await? {
            Ok(found) => Ok(Some(found)),
            Err(Sftp::Status(status))
                if matches!(status.status_code, StatusCode::NoSuchFile | StatusCode::Eof) =>
            {
                Ok(None)
            }
            Err(error) => Err(CopyError::Failed(device_error(error).context(operation))),
        }
    }

    /// Reads bytes of an open file; none at its end.
    pub(super) async fn read(
        &self,
        handle: &str,
        offset: u64,
        max_bytes: u32,
    ) -> Result<Vec<u8>, CopyError> {
        let _permit = self.in_flight.acquire().await;
        let read = self.find("failed to read", self.sftp.read(handle, offset, max_bytes)).await?;
        Ok(read.map(|data| data.data).unwrap_or_default())
    }

    /// Writes bytes to an open file.
    pub(super) async fn write(
        &self,
        handle: &str,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<(), CopyError> {
        let _permit = self.in_flight.acquire().await;
        let write = self.sftp.write(handle, offset, bytes);
        self.require("failed to write", write).await.map(drop)
    }

    /// Returns the length and the hash of a part of an open file.
    pub(super) async fn hash(
        &self,
        handle: &str,
        offset: u64,
        length: u64,
    ) -> Result<(u64, [u8; 32]), CopyError> {
        let mut payload = text(handle);
        payload.extend(offset.to_be_bytes());
        payload.extend(length.to_be_bytes());
        let request = self.sftp.extended(SFTP_SHA256, payload);
        let wrong = || anyhow!("the device returned an invalid hash");
        let Packet::ExtendedReply(reply) = self.require("failed to compare", request).await? else {
            return Err(wrong().into());
        };
        let (bytes, hash) = reply.data.split_first_chunk::<8>().ok_or_else(wrong)?;
        let hash = hash.try_into().map_err(|_| wrong())?;
        Ok((u64::from_be_bytes(*bytes), hash))
    }

    /// Renames a file and replaces an existing one.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), CopyError> {
        let mut names = text(from);
        names.extend(text(to));
        let request = self.sftp.extended(RENAME, names);
        self.require("failed to rename it", request).await.map(drop)
    }
}

/// Encodes a string as in requests.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// Returns the device's message without the protocol's prefix.
fn device_error(error: Sftp) -> anyhow::Error {
    match error {
        Sftp::Status(status) if !status.error_message.is_empty() => anyhow!(status.error_message),
        other => anyhow!("{other}"),
    }
}

impl Link {
    /// Connects to the files of a device; `write` allows changes.
    pub(super) async fn open(
        client: &Client,
        device: &str,
        path: &str,
        write: bool,
    ) -> Result<Self> {
        let session = match Session::open(client, device, path, write).await {
            Ok(session) => session,
            Err(CopyError::Failed(error)) => return Err(error),
            Err(lost @ CopyError::Lost) => return Err(lost.into()),
        };
        Ok(Self {
            client: client.clone(),
            device: device.to_owned(),
            path: path.to_owned(),
            is_writable: write,
            session: Mutex::new(Arc::new(session)),
        })
    }

    /// Returns the current session, or a new one if it is lost.
    async fn session(&self, progress: &Progress) -> Result<Arc<Session>> {
        let mut session = self.session.lock().await;
        let mut wait = Duration::from_secs(1);
        for attempt in 1.. {
            if !session.lost.is_cancelled() {
                break;
            }
            match Session::open(&self.client, &self.device, &self.path, self.is_writable).await {
                Ok(new) => {
                    progress.print("reconnected; continuing where the copy stopped");
                    *session = Arc::new(new);
                }
                Err(CopyError::Failed(error))
                    if attempt >= MAX_RECONNECTS || !is_temporary(&error) =>
                {
                    return Err(error);
                }
                Err(failure) => {
                    if attempt == 1 {
                        progress.print(format!("{failure}; retrying for some minutes"));
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(10));
                }
            }
        }
        Ok(Arc::clone(&session))
    }

    /// Runs an operation on a session, and again on a new session after each loss.
    pub(super) async fn with_reconnect<T>(
        &self,
        progress: &Progress,
        work: impl AsyncFn(&Session) -> Result<T, CopyError>,
    ) -> Result<T> {
        for _ in 0..MAX_RECONNECTS {
            let session = self.session(progress).await?;
            match work(&session).await {
                Ok(done) => return Ok(done),
                Err(CopyError::Failed(error)) => return Err(error),
                Err(CopyError::Lost) => {}
            }
        }
        bail!("the connection to {} was lost repeatedly", self.device)
    }
}

/// Whether a later reconnection may succeed.
fn is_temporary(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<RequestError>() {
        Some(RequestError::Unreachable { .. }) => true,
        Some(RequestError::Problem { kind, .. })
            if ["device-revoked", "device-not-enrolled"].contains(&kind.as_str()) =>
        {
            false
        }
        // The device is offline, or a server is unavailable.
        Some(RequestError::Problem { status, .. }) => matches!(status, 409 | 425 | 429 | 500..=599),
        None => false,
    }
}
