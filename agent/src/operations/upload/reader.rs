//! The agent's side of the helper that reads the source.

use std::io;

use muster_schemas::events::RefusalCause;
use tokio::time::{Duration, timeout};

use super::messages::{Packed, Piece, Reply, Request, UploadJob, Value};
use crate::operations::sent_file::Sent;
use crate::subprocess::{HELPER_TIMEOUT, Helper, unresponsive_message};

/// The reason why the helper did not perform a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReaderError {
    /// The helper reported this reason; with a cause if the order must be refused.
    #[error("{reason}")]
    Refused { cause: Option<RefusalCause>, reason: String },
    #[error("{}", unresponsive_message(.path))]
    Unresponsive { path: String },
    /// The helper did not start, or its socket failed.
    #[error("the helper that reads the file failed: {0}")]
    Helper(#[from] io::Error),
}

impl ReaderError {
    /// Returns the cause if the order must be refused.
    pub(super) const fn refusal_cause(&self) -> Option<RefusalCause> {
        match self {
            Self::Refused { cause, .. } => *cause,
            Self::Unresponsive { .. } | Self::Helper(_) => None,
        }
    }

    /// The helper's reply does not match the request.
    fn unexpected_reply() -> Self {
        Self::Helper(io::ErrorKind::InvalidData.into())
    }
}

/// A helper with its source. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    helper: Helper,
    path: String,
}

impl Reader {
    /// Starts the helper of an upload.
    pub(super) async fn start(job: UploadJob) -> Result<Self, ReaderError> {
        Ok(Self { helper: Helper::start(&job).await?, path: job.upload.path })
    }

    /// Sends a request to the helper and waits for the response as long as the helper makes
    /// progress.
    async fn request(&mut self, request: &Request) -> Result<Value, ReaderError> {
        self.helper.send(request).await?;
        let (mut path, mut limit) = (self.path.clone(), HELPER_TIMEOUT);
        loop {
            let Ok(reply) = timeout(limit, self.helper.receive::<Reply>()).await else {
                return Err(ReaderError::Unresponsive { path });
            };
            match reply? {
                Some(Reply::Progress { path: now, seconds }) => {
                    path = now;
                    limit = Duration::from_secs(seconds.into());
                }
                Some(Reply::Done(value)) => return Ok(value),
                Some(Reply::Refused { cause, reason }) => {
                    return Err(ReaderError::Refused { cause, reason });
                }
                None => return Err(ReaderError::Helper(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Checks whether the path is accessible.
    pub(super) async fn examine(&mut self) -> Result<(), ReaderError> {
        self.request(&Request::Examine).await.map(drop)
    }

    /// Opens the source; `sent` is the identity of the source that an earlier agent process started
    /// to send.
    pub(super) async fn open(&mut self, sent: Option<Sent>) -> Result<Sent, ReaderError> {
        match self.request(&Request::Open { sent }).await? {
            Value::Sent(sent) => Ok(sent),
            _ => Err(ReaderError::unexpected_reply()),
        }
    }

    /// Reads and packs a piece.
    pub(super) async fn pack(&mut self, piece: Piece) -> Result<Packed, ReaderError> {
        match self.request(&Request::Pack(piece)).await? {
            Value::Packed(packed) => Ok(packed),
            _ => Err(ReaderError::unexpected_reply()),
        }
    }

    /// Returns the salted hash of everything that was packed.
    pub(super) async fn hash(&mut self) -> Result<[u8; 32], ReaderError> {
        match self.request(&Request::Hash).await? {
            Value::Hash(hash) => Ok(hash),
            _ => Err(ReaderError::unexpected_reply()),
        }
    }

    /// Deletes the source if it is still the file that was sent.
    pub(super) async fn remove(&mut self, sent: Sent) -> Result<(), ReaderError> {
        self.request(&Request::Remove { sent }).await.map(drop)
    }
}
