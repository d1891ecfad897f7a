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
use super::source::{Source, SourceError};
use crate::files::{Bounds, Failure};
use crate::policy::{Policy, PolicyError};
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

/// The reason why a request of the agent failed.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The order may not access the path.
    #[error(transparent)]
    Bounds(Failure),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the source is not open")]
    NotOpen,
    #[error("nothing was archived yet")]
    NothingPacked,
    /// The source was not deleted.
    #[error(transparent)]
    Remove(Failure),
    /// The agent received no progress report.
    #[error(transparent)]
    Progress(#[from] io::Error),
}

impl WorkerError {
    /// Returns the cause if the order must be refused.
    const fn refusal_cause(&self) -> Option<RefusalCause> {
        match self {
            Self::Policy(_) | Self::Bounds(Failure::Denied(_)) => Some(RefusalCause::Policy),
            Self::Bounds(Failure::Invalid(_)) => Some(RefusalCause::Invalid),
            _ => None,
        }
    }
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
                Err(error) => {
                    Reply::Refused { cause: error.refusal_cause(), reason: error.to_string() }
                }
            };
            port.send(&reply)?;
        }
        Ok(())
    }
}

impl Worker<'_> {
    fn handle(&mut self, request: Request, progress: &Progress<'_>) -> Result<Value, WorkerError> {
        match request {
            Request::Examine => self.bounds().map(|_| Value::Nothing),
            Request::Open { sent } => {
                let bounds = self.bounds()?;
                let (upload, archive) = (&self.job.upload, &self.job.archive);
                let source = match sent {
                    Some(sent) => Source::reopen(&bounds, &upload.path, archive, sent)?,
                    None => {
                        let limits = Limits::new(upload.limit(), &self.job.disk);
                        Source::open(&bounds, upload, archive, &limits, progress)?
                    }
                };
                let sent = source.sent.clone();
                self.source = Some(source);
                self.hashed = None;
                Ok(Value::Sent(sent))
            }
            Request::Pack(piece) => self.pack(&piece, progress).map(Value::Packed),
            Request::Hash => {
                let hashed = self.hashed.as_ref().map(|hashed| hashed.hasher.clone());
                let hashed = hashed.ok_or(WorkerError::NothingPacked)?;
                Ok(Value::Hash(hashed.finalize().into()))
            }
            Request::Remove { sent } => {
                let bounds = self.bounds()?;
                match bounds.remove_file(&self.job.upload.path, |found| sent.is_same(found)) {
                    // An earlier agent process has deleted it, and not recorded that.
                    Err(Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(WorkerError::Remove)?,
                }
                Ok(Value::Nothing)
            }
        }
    }

    /// Returns the paths that the order may access, by the current policy.
    fn bounds(&self) -> Result<Bounds, WorkerError> {
        let upload = &self.job.upload;
        let policy = Policy::load(&self.job.policy)?;
        Bounds::new(policy, &upload.path, upload.remove_source).map_err(WorkerError::Bounds)
    }

    /// Reads a piece, and the preceding data that the hash does not include yet.
    fn pack(&mut self, piece: &Piece, progress: &Progress<'_>) -> Result<Packed, WorkerError> {
        let source = self.source.as_ref().ok_or(WorkerError::NotOpen)?;
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
            progress.report_progress()?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::thread;

    use muster_schemas::OperationId;
    use muster_schemas::events::Upload;
    use uuid::Uuid;

    use super::*;

    /// A helper on a thread, with the agent's end of its socket.
    struct Agent {
        port: Port,
    }

    impl Agent {
        fn start(dir: &Path, upload: Upload) -> Self {
            let (port, theirs) = Port::pair().unwrap();
            let job = UploadJob {
                policy: dir.join("policy.toml"),
                upload,
                archive: dir.join("archive"),
                disk: dir.to_owned(),
            };
            thread::spawn(move || job.perform(theirs, Vec::new()));
            Self { port }
        }

        /// Sends a request; returns the refusal.
        fn request(&mut self, request: &Request) -> Result<Value, (Option<RefusalCause>, String)> {
            self.port.send(request).unwrap();
            loop {
                match self.port.receive::<Reply>().unwrap().unwrap() {
                    Reply::Progress { .. } => {}
                    Reply::Done(value) => return Ok(value),
                    Reply::Refused { cause, reason } => return Err((cause, reason)),
                }
            }
        }
    }

    fn upload(path: &Path) -> Upload {
        Upload {
            path: path.to_str().unwrap().to_owned(),
            remove_source: false,
            replace: false,
            keep_seconds: None,
            max_bytes: None,
            bytes_per_second: None,
        }
    }

    fn first_piece() -> Request {
        Request::Pack(Piece {
            id: OperationId(Uuid::from_u128(1)),
            salt: [0; 16],
            at: 0,
            length: 10,
            is_asking: false,
            compresses: false,
        })
    }

    #[test]
    fn a_source_that_cannot_be_sent_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let shown = |name: &str| at(name).display().to_string();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("file"), "content").unwrap();
        symlink(at("file"), at("link")).unwrap();
        let removing = |path: &Path| Upload { remove_source: true, ..upload(path) };
        let limited = |name: &str| Upload { max_bytes: Some(3), ..upload(&at(name)) };
        for (upload, reason) in [
            (
                upload(&at("none")),
                format!("failed to read {}: No such file or directory (os error 2)", shown("none")),
            ),
            (
                removing(&at("folder")),
                format!("{} is a folder; the source is removed only for a file", shown("folder")),
            ),
            (
                removing(&at("link")),
                format!(
                    "{} is a symbolic link; give the path of the file itself to remove the source",
                    shown("link")
                ),
            ),
            (
                removing(Path::new("/proc/version")),
                "/proc/version is a virtual file of the kernel and cannot be removed".to_owned(),
            ),
            (limited("file"), format!("{} has 7 bytes, more than the limit of 3", shown("file"))),
            (
                limited("folder"),
                format!(
                    "failed to archive {}: it is larger than the limit of 3 bytes",
                    shown("folder")
                ),
            ),
        ] {
            let refused = Agent::start(dir.path(), upload).request(&Request::Open { sent: None });
            assert_eq!(refused.unwrap_err(), (None, reason));
        }
    }

    #[test]
    fn only_an_order_that_may_not_access_the_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let invalid = Agent::start(dir.path(), upload(Path::new(""))).request(&Request::Examine);
        let reason = "a path must be 1 to 4096 bytes without NUL".to_owned();
        assert_eq!(invalid.unwrap_err(), (Some(RefusalCause::Invalid), reason));
        let mut agent = Agent::start(dir.path(), upload(&path));
        assert!(agent.request(&Request::Examine).is_ok());
        for (request, reason) in
            [(first_piece(), "the source is not open"), (Request::Hash, "nothing was archived yet")]
        {
            assert_eq!(agent.request(&request).unwrap_err(), (None, reason.to_owned()));
        }
        std::fs::write(dir.path().join("policy.toml"), "[files]\nenabled = false").unwrap();
        let (cause, reason) = agent.request(&Request::Examine).unwrap_err();
        assert_eq!(cause, Some(RefusalCause::Policy));
        assert!(reason.contains("[files] enabled = false"), "{reason}");
    }

    #[test]
    fn a_file_that_changes_during_the_upload_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let mut agent = Agent::start(dir.path(), upload(&path));
        let Value::Sent(sent) = agent.request(&Request::Open { sent: None }).unwrap() else {
            panic!("the source was not opened")
        };
        assert!(agent.request(&first_piece()).is_ok());
        std::fs::write(&path, "other content").unwrap();
        let changed =
            "the file changed during the upload and was discarded; upload a copy of it".to_owned();
        assert_eq!(agent.request(&first_piece()).unwrap_err(), (None, changed.clone()));
        let reopened = agent.request(&Request::Open { sent: Some(sent) });
        assert_eq!(reopened.unwrap_err(), (None, changed));
    }
}
