//! The agent's side of the helper that reads the source.

use std::io;

use muster_schemas::events::RefusalCause;
use tokio::time::{Duration, timeout};

use super::messages::{Packed, Piece, Reply, Request, UploadJob, Value};
use crate::operations::sent_file::Sent;
use crate::subprocess::{HELPER_TIMEOUT, Helper, unresponsive_message};

/// The reason of a failure; with a cause if the order is refused.
#[derive(Debug)]
pub(super) struct UploadError {
    pub(super) cause: Option<RefusalCause>,
    pub(super) reason: String,
}

impl From<UploadError> for String {
    fn from(error: UploadError) -> Self {
        error.reason
    }
}

fn helper_error(error: &io::Error) -> UploadError {
    UploadError { cause: None, reason: format!("the helper that reads the file failed: {error}") }
}

/// A helper with its source. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    helper: Helper,
    path: String,
}

impl Reader {
    /// Starts the helper of an upload.
    pub(super) async fn start(job: UploadJob) -> Result<Self, UploadError> {
        let helper = Helper::start(&job).await;
        Ok(Self { helper: helper.map_err(|error| helper_error(&error))?, path: job.upload.path })
    }

    /// Sends a request to the helper and waits for the response as long as the helper makes
    /// progress.
    async fn request(&mut self, request: &Request) -> Result<Value, UploadError> {
        self.helper.send(request).await.map_err(|error| helper_error(&error))?;
        let (mut path, mut limit) = (self.path.clone(), HELPER_TIMEOUT);
        loop {
            match timeout(limit, self.helper.receive::<Reply>()).await {
                Ok(Ok(Some(Reply::Progress { path: now, seconds }))) => {
                    path = now;
                    limit = Duration::from_secs(seconds.into());
                }
                Ok(Ok(Some(Reply::Done(value)))) => return Ok(value),
                Ok(Ok(Some(Reply::Refused { cause, reason }))) => {
                    return Err(UploadError { cause, reason });
                }
                Ok(Ok(None)) => return Err(helper_error(&io::ErrorKind::UnexpectedEof.into())),
                Ok(Err(error)) => return Err(helper_error(&error)),
                Err(_) => {
                    return Err(UploadError { cause: None, reason: unresponsive_message(&path) });
                }
            }
        }
    }

    /// Checks whether the path is accessible.
    pub(super) async fn examine(&mut self) -> Result<(), UploadError> {
        self.request(&Request::Examine).await.map(drop)
    }

    /// Opens the source; `sent` is the identity of the source that an earlier agent process started
    /// to send.
    pub(super) async fn open(&mut self, sent: Option<Sent>) -> Result<Sent, UploadError> {
        match self.request(&Request::Open { sent }).await? {
            Value::Sent(sent) => Ok(sent),
            _ => Err(helper_error(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Reads and packs a piece.
    pub(super) async fn pack(&mut self, piece: Piece) -> Result<Packed, UploadError> {
        match self.request(&Request::Pack(piece)).await? {
            Value::Packed(packed) => Ok(packed),
            _ => Err(helper_error(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Returns the salted hash of everything that was packed.
    pub(super) async fn hash(&mut self) -> Result<[u8; 32], UploadError> {
        match self.request(&Request::Hash).await? {
            Value::Hash(hash) => Ok(hash),
            _ => Err(helper_error(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Deletes the source if it is still the file that was sent.
    pub(super) async fn remove(&mut self, sent: Sent) -> Result<(), UploadError> {
        self.request(&Request::Remove { sent }).await.map(drop)
    }
}
