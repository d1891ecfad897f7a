//! The helper process that accesses the source: opens, packs, reads and deletes it.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_schemas::events::{RefusalCause, Upload};
use muster_schemas::wire::{MAX_FILE_PIECE_BYTES, OutputPiece, OutputStream};
use muster_schemas::{OperationId, compress};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::Limits;
use super::source::{Sent, Source};
use crate::files::{Bounds, Failure};
use crate::operations::Policy;
use crate::subprocess::{HELPER_TIMEOUT, Port, path_bytes};

/// Minimum interval between progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for storing a whole archive on disk, in seconds.
const SYNC_SECONDS: u32 = 900;

/// The job of a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UploadJob {
    #[serde(with = "path_bytes")]
    pub(super) policy: PathBuf,
    pub(super) upload: Upload,
    /// Path of the archive of a folder.
    #[serde(with = "path_bytes")]
    pub(super) archive: PathBuf,
    /// Path on the disk whose free space limits the archive.
    #[serde(with = "path_bytes")]
    pub(super) disk: PathBuf,
}

/// A request of the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Examine,
    Open { sent: Option<Sent> },
    Pack(Piece),
    Hash,
    Remove { sent: Sent },
}

/// A reply of the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The helper works at this path; the next message follows within this number of seconds.
    Progress {
        path: String,
        seconds: u32,
    },
    Done(Value),
    Refused {
        cause: Option<RefusalCause>,
        reason: String,
    },
}

/// Value of a reply.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Value {
    Nothing,
    Sent(Sent),
    Packed(Packed),
    Hash([u8; 32]),
}

/// The next piece to send.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) id: OperationId,
    pub(super) salt: [u8; 16],
    pub(super) at: u64,
    pub(super) length: usize,
    /// Whether the request only queries the server's offset.
    pub(super) is_asking: bool,
    pub(super) compresses: bool,
}

/// A piece, ready to be sealed and sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Packed {
    pub(super) bytes: u64,
    pub(super) piece: OutputPiece,
    pub(super) is_smaller: bool,
}

/// Reports that the helper is still working.
pub(super) struct Progress<'a> {
    state: RefCell<State<'a>>,
}

struct State<'a> {
    port: &'a mut Port,
    path: String,
    sent_at: Instant,
}

impl<'a> Progress<'a> {
    fn new(port: &'a mut Port, path: &str) -> Self {
        let path = path.to_owned();
        Self { state: RefCell::new(State { port, path, sent_at: Instant::now() }) }
    }

    fn send(&self, path: &str, seconds: u32) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.sent_at = Instant::now();
        path.clone_into(&mut state.path);
        state.port.send(&Reply::Progress { path: path.to_owned(), seconds })
    }

    /// Reports that a path will be accessed next.
    pub(super) fn report_path(&self, path: &str) -> io::Result<()> {
        let seconds = u32::try_from(HELPER_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
        self.send(path, seconds)
    }

    /// Reports progress at the path that was reported last.
    pub(super) fn report_progress(&self) -> io::Result<()> {
        let state = self.state.borrow();
        if state.sent_at.elapsed() < PROGRESS_INTERVAL {
            return Ok(());
        }
        let path = state.path.clone();
        drop(state);
        self.report_path(&path)
    }

    /// Reports that a whole archive will be synced to the agent's own disk.
    pub(super) fn report_syncing(&self, path: &str) -> io::Result<()> {
        self.send(path, SYNC_SECONDS)
    }
}

/// The hash of the packed data, as far as it was read.
struct HashState {
    hasher: Sha256,
    to: u64,
}

struct Worker<'a> {
    job: &'a UploadJob,
    source: Option<Source>,
    hashed: Option<HashState>,
}

type WorkerResult = Result<Value, (Option<RefusalCause>, String)>;

fn failed(reason: String) -> (Option<RefusalCause>, String) {
    (None, reason)
}

/// Serves the agent's requests until it closes the socket.
pub(crate) fn serve_upload(mut port: Port, job: &UploadJob) -> io::Result<()> {
    let mut worker = Worker { job, source: None, hashed: None };
    while let Some(request) = port.receive::<Request>()? {
        let reply = match worker.handle(request, &Progress::new(&mut port, &job.upload.path)) {
            Ok(value) => Reply::Done(value),
            Err((cause, reason)) => Reply::Refused { cause, reason },
        };
        port.send(&reply)?;
    }
    Ok(())
}

impl Worker<'_> {
    fn handle(&mut self, request: Request, progress: &Progress<'_>) -> WorkerResult {
        match request {
            Request::Examine => self.bounds().map(|_| Value::Nothing),
            Request::Open { sent } => {
                let bounds = self.bounds()?;
                let (upload, archive) = (&self.job.upload, &self.job.archive);
                let source = match sent {
                    Some(sent) => Source::reopen(&bounds, &upload.path, archive, sent),
                    None => {
                        let limits = Limits::new(upload.limit(), &self.job.disk);
                        Source::open(&bounds, upload, archive, &limits, progress)
                    }
                };
                let source = source.map_err(failed)?;
                let sent = source.sent.clone();
                self.source = Some(source);
                self.hashed = None;
                Ok(Value::Sent(sent))
            }
            Request::Pack(piece) => self.pack(&piece, progress).map(Value::Packed).map_err(failed),
            Request::Hash => {
                let hashed = self.hashed.as_ref().map(|hashed| hashed.hasher.clone());
                let hashed = hashed.ok_or_else(|| failed("nothing was archived yet".to_owned()))?;
                Ok(Value::Hash(hashed.finalize().into()))
            }
            Request::Remove { sent } => {
                let bounds = self.bounds()?;
                match bounds.remove_file(&self.job.upload.path, |found| sent.is_same(found)) {
                    // An earlier agent process has deleted it, and not recorded that.
                    Err(Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(|failure| failed(failure.to_string()))?,
                }
                Ok(Value::Nothing)
            }
        }
    }

    /// Returns the paths that the order may access, by the current policy.
    fn bounds(&self) -> Result<Bounds, (Option<RefusalCause>, String)> {
        let upload = &self.job.upload;
        let policy = Policy::load(&self.job.policy)
            .map_err(|reason| (Some(RefusalCause::Policy), reason))?;
        Bounds::new(policy, &upload.path, upload.remove_source).map_err(|failure| {
            let cause = match failure {
                Failure::Denied(_) => Some(RefusalCause::Policy),
                Failure::Invalid(_) => Some(RefusalCause::Invalid),
                Failure::Unresponsive(_) | Failure::Io(_) => None,
            };
            (cause, failure.to_string())
        })
    }

    /// Reads a piece, and the preceding data that the hash does not include yet.
    fn pack(&mut self, piece: &Piece, progress: &Progress<'_>) -> Result<Packed, String> {
        let source = self.source.as_ref().ok_or("the source is not open")?;
        let hashed = self.hashed.get_or_insert_with(|| HashState {
            hasher: Sha256::new_with_prefix(piece.salt),
            to: 0,
        });
        let total = source.sent.bytes;
        let is_last = !piece.is_asking && piece.at == total;
        while hashed.to < piece.at {
            let gap = usize::try_from(piece.at - hashed.to).unwrap_or(usize::MAX);
            let bytes = source.read(hashed.to, gap.min(MAX_FILE_PIECE_BYTES))?;
            hashed.hasher.update(&bytes);
            hashed.to += bytes.len() as u64;
            progress.report_progress().map_err(|error| error.to_string())?;
        }
        let bytes = source.read(piece.at, piece.length)?;
        if is_last {
            source.check_location()?
        } else {
            source.check()?
        }
        if hashed.to == piece.at {
            hashed.hasher.update(&bytes);
            hashed.to += bytes.len() as u64;
        }
        let length = bytes.len();
        let data = if piece.compresses { compress::compress(bytes) } else { bytes };
        let is_first = !piece.is_asking && piece.at == 0;
        let piece = OutputPiece {
            operation: piece.id,
            stream: OutputStream::File,
            offset: piece.at,
            bytes: u32::try_from(length).unwrap_or(u32::MAX),
            compressed: data.len() < length,
            data,
            sealed: false,
            last: is_last,
            salt: is_first.then(|| piece.salt.to_vec()),
            total: Some(total),
        };
        let is_smaller = piece.compressed;
        Ok(Packed { bytes: length as u64, piece, is_smaller })
    }
}
