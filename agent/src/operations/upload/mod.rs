//! Uploads of a file or folder to the server.
//!
//! | file | contents |
//! |---|---|
//! | `reader`, `worker` | the two sides of the helper process that accesses the file |
//! | `messages`, `progress` | what they send to each other |
//! | `source` | the file: opened within the policy's bounds, and checked for changes |
//! | `archive` | a packed folder |
//! | `send` | its pieces, until the server has all of them |
//!
//! Only the journal keeps the state: after a crash, the agent continues at the server's offset.
//!
//! Invariant: the run succeeds, and the source is deleted, only after the server has confirmed
//! every byte and the journal has recorded that.

mod archive;
mod messages;
mod progress;
mod reader;
mod send;
mod source;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_schemas::OperationId;
use muster_schemas::events::{Action, FileSummary, RunReport, Upload};
use muster_schemas::wire::OutputStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use self::messages::UploadJob;
use self::reader::{Reader, ReaderError};
use self::send::SendError;
use super::entry::{Entry, ReadyRun, RunStart, StartedRun, UploadProgress};
use super::output_client::OutputClient;
use super::record::{self, Outcome, Runs, empty_report, truncate};
use super::sent_file::Sent;
use crate::clock::Moment;
use crate::store::StoreError;

/// The reason why an upload, or the removal of its source, failed.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the run is not an upload")]
    NotAnUpload,
    /// The folder of archives could not be created.
    #[error(transparent)]
    Folder(#[from] io::Error),
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("failed to write the journal: {0}")]
    Journal(#[from] StoreError),
    #[error("the server has the file, but the source was not removed: {0}")]
    NotRemoved(ReaderError),
}

/// The uploads of this device.
pub(super) struct Uploads {
    pub(super) runs: Arc<Runs>,
    pub(super) server: OutputClient,
    /// Policy file of the device's owner.
    pub(super) policy: PathBuf,
}

impl Uploads {
    /// Starts an upload and follows it until its end.
    pub(super) async fn run(
        &self,
        id: OperationId,
        entry: Entry<ReadyRun>,
        upload: &Upload,
        cancel: &CancellationToken,
    ) {
        // Whether the path is accessible is known only after a helper has checked it.
        let examined = tokio::select! {
            examined = self.examine(id, upload) => examined,
            // The code below ends it.
            () = cancel.cancelled() => Ok(()),
        };
        if let Err(error) = &examined
            && let Some(cause) = error.refusal_cause()
        {
            let event = record::rejected(id, cause, &error.to_string());
            return self.runs.record_end(id, entry, event);
        }
        match self.runs.journal_start(id, entry) {
            Ok(entry) => {
                self.runs.record_started_now(id, &entry, None);
                match examined {
                    Ok(()) => self.resume(id, entry, cancel).await,
                    Err(error) => {
                        self.end(id, entry, Outcome::Failed, None, Some(&error.to_string()));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, operation = %id, "failed to start an upload; retrying");
                self.runs.queue.requeue(id);
            }
        }
    }

    async fn examine(&self, id: OperationId, upload: &Upload) -> Result<(), ReaderError> {
        Reader::start(self.job(id, upload)).await?.examine().await
    }

    /// Continues an upload that was started, possibly by an earlier agent process.
    pub(super) async fn resume(
        &self,
        id: OperationId,
        mut entry: Entry<StartedRun>,
        cancel: &CancellationToken,
    ) {
        let left = remaining_time(&entry.state);
        let (outcome, file, problem) = tokio::select! {
            done = self.work(id, &mut entry) => match done {
                Ok((file, problem)) => (Outcome::Succeeded, Some(file), problem),
                Err(problem) => (Outcome::Failed, None, Some(problem)),
            },
            () = sleep(left) => (Outcome::TimedOut, None, None),
            () = cancel.cancelled() => (Outcome::Canceled, None, None),
        };
        let problem = problem.map(|error| error.to_string());
        self.end(id, entry, outcome, file, problem.as_deref());
    }

    fn end(
        &self,
        id: OperationId,
        entry: Entry<StartedRun>,
        outcome: Outcome,
        file: Option<FileSummary>,
        problem: Option<&str>,
    ) {
        // Not earlier: while the upload may continue, the archive is needed.
        self.runs.spools.delete_archive(id);
        let report = RunReport {
            problem: problem.map(truncate),
            started_at: Some(entry.state.record.start.at),
            ended_at: Some(Moment::now().wall),
            file,
            ..empty_report(id)
        };
        self.runs.record_end(id, entry, outcome.event(report));
    }

    async fn work(
        &self,
        id: OperationId,
        entry: &mut Entry<StartedRun>,
    ) -> Result<StoredFile, UploadError> {
        let Action::Upload(upload) = entry.state.order.action.clone() else {
            return Err(UploadError::NotAnUpload);
        };
        let upload = &upload;
        let salt = *entry.state.record.salts.stdout;
        let (sent, file) = match &entry.state.upload {
            UploadProgress::Stored { sent, file } => (sent.clone(), file.clone()),
            _ => {
                let mut reader = Reader::start(self.job(id, upload)).await?;
                let sent = self.open(id, entry, &mut reader).await?;
                let speed = upload.bytes_per_second;
                let hash = send::send(&self.server, id, salt, reader, sent.bytes, speed).await?;
                let Sent { name, bytes, is_folder, .. } = sent.clone();
                let file = FileSummary { name, bytes, hash, is_folder };
                entry.state.upload =
                    UploadProgress::Stored { sent: sent.clone(), file: file.clone() };
                self.store_entry(id, entry)?;
                (sent, file)
            }
        };
        let problem = match upload.remove_source {
            true => self.remove(id, upload, sent).await.err().map(UploadError::NotRemoved),
            false => None,
        };
        Ok((file, problem))
    }

    /// Opens the source. Its identity is in the journal from then on: each agent process that
    /// continues the upload must find the same file.
    async fn open(
        &self,
        id: OperationId,
        entry: &mut Entry<StartedRun>,
        reader: &mut Reader,
    ) -> Result<Sent, UploadError> {
        if let UploadProgress::Opened(sent) = &entry.state.upload {
            return Ok(reader.open(Some(sent.clone())).await?);
        }
        self.runs.spools.folder()?;
        let sent = reader.open(None).await?;
        entry.state.upload = UploadProgress::Opened(sent.clone());
        self.store_entry(id, entry)?;
        Ok(sent)
    }

    fn store_entry(&self, id: OperationId, entry: &Entry<StartedRun>) -> Result<(), StoreError> {
        self.runs.put(id, &entry.clone().into())
    }

    /// Deletes the source if it is still the file that was sent.
    async fn remove(
        &self,
        id: OperationId,
        upload: &Upload,
        sent: Sent,
    ) -> Result<(), ReaderError> {
        Reader::start(self.job(id, upload)).await?.remove(sent).await
    }

    /// Returns the job of the helper of an upload.
    fn job(&self, id: OperationId, upload: &Upload) -> UploadJob {
        UploadJob {
            policy: self.policy.clone(),
            upload: upload.clone(),
            archive: self.runs.spools.path(id, OutputStream::File),
            disk: self.runs.store.folder().path().to_owned(),
        }
    }
}

/// Summary of the file that the server has, and a problem that occurred afterwards.
type StoredFile = (FileSummary, Option<UploadError>);

/// Returns the time that is left. A restart of the machine does not extend it, as far as the wall
/// clock shows.
fn remaining_time(run: &StartedRun) -> Duration {
    let now = Moment::now();
    let RunStart { boot, mono, at, .. } = run.record.start;
    let elapsed = if boot == now.boot {
        Duration::from_micros(now.mono.saturating_sub(mono))
    } else {
        now.wall.since(at)
    };
    let limit = Duration::from_millis(run.order.timeout_ms);
    limit.saturating_sub(elapsed).min(Duration::from_secs(u32::MAX.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_failed_upload_is_reported() {
        let dead = || ReaderError::Unresponsive { path: "/mnt/nas".to_owned() };
        let broken = || ReaderError::from(io::Error::other("broken pipe"));
        let journal = StoreError::InUse { path: "/data".into() };
        for (error, reason) in [
            (dead().into(), "the file system at /mnt/nas does not respond"),
            (
                SendError::from(broken()).into(),
                "the helper that reads the file failed: broken pipe",
            ),
            (
                SendError::Rejected("too large".to_owned()).into(),
                "the server rejects the file: too large",
            ),
            (
                UploadError::from(journal),
                "failed to write the journal: another agent uses /data; stop it, or use another \
                 folder (--data)",
            ),
            (
                UploadError::NotRemoved(dead()),
                "the server has the file, but the source was not removed: the file system at \
                 /mnt/nas does not respond",
            ),
        ] {
            assert_eq!(error.to_string(), reason);
        }
    }
}
