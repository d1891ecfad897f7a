//! The helper process that accesses the source: opens, packs, reads and deletes it.

use std::io;
use std::os::fd::OwnedFd;

use muster_schemas::compress;
use muster_schemas::events::RefusalCause;
use muster_schemas::wire::{MAX_FILE_PIECE_BYTES, OutputPiece, OutputStream};
use sha2::{Digest, Sha256};

use super::archive::Limits;
use super::messages::{Packed, Piece, Reply, Request, UploadJob, Value};
use super::progress::Progress;
use super::source::Source;
use crate::files::{Bounds, Failure};
use crate::policy::Policy;
use crate::subprocess::{HelperJob, Port};

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

impl HelperJob for UploadJob {
    const NAME: &'static str = "upload";

    /// Serves the agent's requests until it closes the socket.
    fn perform(self, mut port: Port, _descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut worker = Worker { job: &self, source: None, hashed: None };
        while let Some(request) = port.receive::<Request>()? {
            let progress = Progress::new(&mut port, &self.upload.path);
            let reply = match worker.handle(request, &progress) {
                Ok(value) => Reply::Done(value),
                Err((cause, reason)) => Reply::Refused { cause, reason },
            };
            port.send(&reply)?;
        }
        Ok(())
    }
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
            .map_err(|denied| (Some(RefusalCause::Policy), denied.to_string()))?;
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
            source.check_location()?;
        } else {
            source.check()?;
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
