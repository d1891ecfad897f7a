//! The agent's side of the helper that reads the source.

use std::io;

use muster_schemas::OperationId;
use muster_schemas::events::{RefusalCause, Upload};
use muster_schemas::wire::OutputStream;
use tokio::time::{Duration, timeout};

use super::source::Sent;
use super::worker::{Packed, Piece, Reply, Request, UploadJob, Value};
use crate::run::Shared;
use crate::subprocess::{ANSWER_TIMEOUT, Helper, Job, no_answer};

/// The reason of a failure; with a cause if the order is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) cause: Option<RefusalCause>,
    pub(super) reason: String,
}

impl From<Refused> for String {
    fn from(refused: Refused) -> Self {
        refused.reason
    }
}

fn failed(error: &io::Error) -> Refused {
    Refused { cause: None, reason: format!("the helper that reads the file failed: {error}") }
}

/// A helper with its source. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    helper: Helper,
    path: String,
}

impl Reader {
    /// Starts the helper of an upload.
    pub(super) async fn start(
        shared: &Shared,
        id: OperationId,
        upload: &Upload,
    ) -> Result<Self, Refused> {
        let job = UploadJob {
            policy: shared.operations.options.policy.clone(),
            upload: upload.clone(),
            archive: shared.operations.spools.path(id, OutputStream::File),
            disk: shared.store.folder().path().to_owned(),
        };
        let helper = Helper::start(&Job::Upload(job), Vec::new()).await;
        Ok(Self { helper: helper.map_err(|error| failed(&error))?, path: upload.path.clone() })
    }

    /// Sends a request to the helper and waits for the response as long as the helper makes
    /// progress.
    async fn ask(&mut self, request: &Request) -> Result<Value, Refused> {
        self.helper.send(request).await.map_err(|error| failed(&error))?;
        let (mut path, mut limit) = (self.path.clone(), ANSWER_TIMEOUT);
        loop {
            match timeout(limit, self.helper.receive::<Reply>()).await {
                Ok(Ok(Some(Reply::Progress { path: now, seconds }))) => {
                    path = now;
                    limit = Duration::from_secs(seconds.into());
                }
                Ok(Ok(Some(Reply::Done(value)))) => return Ok(value),
                Ok(Ok(Some(Reply::Refused { cause, reason }))) => {
                    return Err(Refused { cause, reason });
                }
                Ok(Ok(None)) => return Err(failed(&io::ErrorKind::UnexpectedEof.into())),
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_) => return Err(Refused { cause: None, reason: no_answer(&path) }),
            }
        }
    }

    /// Checks whether the path is accessible.
    pub(super) async fn examine(&mut self) -> Result<(), Refused> {
        self.ask(&Request::Examine).await.map(drop)
    }

    /// Opens the source; `sent` is the identity of the source that an earlier agent process started
    /// to send.
    pub(super) async fn open(&mut self, sent: Option<Sent>) -> Result<Sent, Refused> {
        match self.ask(&Request::Open { sent }).await? {
            Value::Sent(sent) => Ok(sent),
            _ => Err(failed(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Reads and packs a piece.
    pub(super) async fn pack(&mut self, piece: Piece) -> Result<Packed, Refused> {
        match self.ask(&Request::Pack(piece)).await? {
            Value::Packed(packed) => Ok(packed),
            _ => Err(failed(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Returns the salted hash of everything that was packed.
    pub(super) async fn hash(&mut self) -> Result<[u8; 32], Refused> {
        match self.ask(&Request::Hash).await? {
            Value::Hash(hash) => Ok(hash),
            _ => Err(failed(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Deletes the source if it is still the file that was sent.
    pub(super) async fn remove(&mut self, sent: Sent) -> Result<(), Refused> {
        self.ask(&Request::Remove { sent }).await.map(drop)
    }
}
