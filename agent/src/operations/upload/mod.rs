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

use std::time::Duration;

use muster_schemas::OperationId;
use muster_schemas::events::{Action, FileSummary, RunReport, Upload};
use muster_schemas::wire::RunOrder;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use self::messages::UploadJob;
use self::reader::{Reader, UploadError};
use super::journal::{self, Entry, RunStart};
use super::record::{self, Outcome, empty_report, truncate};
use super::sent_file::Sent;
use crate::clock::Moment;
use crate::run::Shared;

/// Starts an upload and follows it until its end.
pub(super) async fn run(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
    cancel: &CancellationToken,
) {
    let Some(order) = entry.order.clone() else { return shared.operations.close(id) };
    let Action::Upload(upload) = &order.action else { return shared.operations.close(id) };
    // Whether the path is accessible is known only after a helper has checked it.
    let examined = tokio::select! {
        examined = examine(shared, id, upload) => examined,
        // The code below ends it.
        () = cancel.cancelled() => Ok(()),
    };
    if let Err(UploadError { cause: Some(cause), reason }) = &examined {
        let event = record::rejected(id, *cause, reason);
        return record::record_end(shared, id, entry, event);
    }
    match record::journal_start(shared, id, entry) {
        Ok(entry) => {
            record::record_started_now(shared, id, &entry, None);
            match examined {
                Ok(()) => resume(shared, id, entry, cancel).await,
                Err(rejection) => {
                    end(shared, id, entry, Outcome::Failed, None, Some(rejection.reason))
                }
            }
        }
        Err(error) => {
            tracing::warn!(%error, operation = %id, "failed to start an upload; retrying");
            shared.operations.requeue(id);
        }
    }
}

async fn examine(shared: &Shared, id: OperationId, upload: &Upload) -> Result<(), UploadError> {
    Reader::start(shared, id, upload).await?.examine().await
}

/// Continues an upload that was started, possibly by an earlier agent process.
pub(super) async fn resume(
    shared: &Shared,
    id: OperationId,
    mut entry: Entry,
    cancel: &CancellationToken,
) {
    let Some(order) = entry.order.clone() else { return shared.operations.close(id) };
    let left = remaining_time(&entry, &order);
    let (outcome, file, problem) = tokio::select! {
        done = work(shared, id, &mut entry, &order) => match done {
            Ok((file, problem)) => (Outcome::Succeeded, Some(file), problem),
            Err(problem) => (Outcome::Failed, None, Some(problem)),
        },
        () = sleep(left) => (Outcome::TimedOut, None, None),
        () = cancel.cancelled() => (Outcome::Canceled, None, None),
    };
    end(shared, id, entry, outcome, file, problem);
}

fn end(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
    outcome: Outcome,
    file: Option<FileSummary>,
    problem: Option<String>,
) {
    // Not earlier: while the upload may continue, the archive is needed.
    shared.operations.spools.delete_archive(id);
    let report = RunReport {
        problem: problem.as_deref().map(truncate),
        started_at: entry.begun.map(|start| start.at),
        ended_at: Some(Moment::now().wall),
        file,
        ..empty_report(id)
    };
    record::record_end(shared, id, entry, outcome.event(report));
}

/// Returns the time that is left. A restart of the machine does not extend it, as far as the wall
/// clock shows.
fn remaining_time(entry: &Entry, order: &RunOrder) -> Duration {
    let now = Moment::now();
    let elapsed = entry.begun.map_or(0, |RunStart { boot, mono, at, .. }| {
        if boot == now.boot {
            now.mono.saturating_sub(mono)
        } else {
            u64::try_from(now.wall.micros().saturating_sub(at.micros())).unwrap_or(0)
        }
    });
    let limit = Duration::from_millis(order.timeout_ms);
    limit.saturating_sub(Duration::from_micros(elapsed)).min(Duration::from_secs(u32::MAX.into()))
}

/// Summary of the file that the server has, and a problem that occurred afterwards.
type StoredFile = (FileSummary, Option<String>);

async fn work(
    shared: &Shared,
    id: OperationId,
    entry: &mut Entry,
    order: &RunOrder,
) -> Result<StoredFile, String> {
    let Action::Upload(upload) = &order.action else {
        return Err("the run is not an upload".to_owned());
    };
    let salt = *entry.salts.ok_or("the journal has no salt for the upload")?.stdout;
    let file = match &entry.file {
        Some(file) => file.clone(),
        None => {
            let mut reader = Reader::start(shared, id, upload).await?;
            let sent = open(shared, id, entry, &mut reader).await?;
            let speed = upload.bytes_per_second;
            let hash = send::send(shared, id, salt, reader, sent.bytes, speed).await?;
            let Sent { name, bytes, is_folder, .. } = sent;
            let file = FileSummary { name, bytes, hash, is_folder };
            entry.file = Some(file.clone());
            store_entry(shared, id, entry)?;
            file
        }
    };
    let problem = match (&entry.sent, upload.remove_source) {
        (Some(sent), true) => remove(shared, id, upload, sent.clone()).await.err(),
        _ => None,
    };
    Ok((file, problem))
}

/// Opens the source. Its identity is in the journal from then on: each agent process that continues
/// the upload must find the same file.
async fn open(
    shared: &Shared,
    id: OperationId,
    entry: &mut Entry,
    reader: &mut Reader,
) -> Result<Sent, String> {
    if let Some(sent) = &entry.sent {
        return Ok(reader.open(Some(sent.clone())).await?);
    }
    shared.operations.spools.folder().map_err(|error| error.to_string())?;
    let sent = reader.open(None).await?;
    entry.sent = Some(sent.clone());
    store_entry(shared, id, entry)?;
    Ok(sent)
}

fn store_entry(shared: &Shared, id: OperationId, entry: &Entry) -> Result<(), String> {
    let kept = shared.store.write(|transaction| journal::put(transaction, id, entry));
    kept.map_err(|error| format!("failed to write the journal: {error}"))
}

/// Deletes the source if it is still the file that was sent.
async fn remove(
    shared: &Shared,
    id: OperationId,
    upload: &Upload,
    sent: Sent,
) -> Result<(), String> {
    let removed = async { Reader::start(shared, id, upload).await?.remove(sent).await };
    removed.await.map_err(|UploadError { reason, .. }| {
        format!("the server has the file, but the source was not removed: {reason}")
    })
}
