//! A file, or a folder, that the project wants to have at the server.
//!
//! | file | is |
//! |---|---|
//! | `source` | what is sent: opened within the policy's bounds, held to what it was |
//! | `archive` | a folder, packed |
//! | `send` | its pieces, until the server has all of them |
//!
//! Nothing but the journal remembers it: an agent that was killed goes on where the server is.
//!
//! Invariant: the run succeeds, and the source is removed, only after the server has said that it has
//! every byte, and the journal says so.

mod archive;
mod send;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use muster_schemas::OperationId;
use muster_schemas::events::{Action, FileSummary, RefusalCause, RunReport, Upload};
use muster_schemas::wire::{OutputStream, RunOrder};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::source::Source;
use super::journal::{self, Begun, Entry};
use super::policy::Policy;
use super::record::{self, Outcome, blank, short};
use crate::clock::Moment;
use crate::files::{Bounds, Failure};
use crate::run::Shared;

pub(super) use self::source::Sent;

/// A thread's stack, in bytes: compression takes a good part of it.
const STACK: usize = 1 << 20;

/// May it be done, by the policy as it is now? What it may reach.
///
/// # Errors
/// Why not.
pub(super) fn judge(shared: &Shared, upload: &Upload) -> Result<Bounds, (RefusalCause, String)> {
    let policy = Policy::load(&shared.operations.options.policy)
        .map_err(|reason| (RefusalCause::Policy, reason))?;
    Bounds::new(policy, &upload.path, upload.remove_source).map_err(|failure| match failure {
        Failure::Denied(reason) => (RefusalCause::Policy, reason),
        failure => (RefusalCause::Invalid, failure.to_string()),
    })
}

/// Begins an upload, and stays with it until its end.
pub(super) async fn run(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
    cancel: &CancellationToken,
) {
    match record::begin(shared, id, entry) {
        Ok(entry) => {
            record::started(shared, id, &entry, None);
            go_on(shared, id, entry, cancel).await;
        }
        Err(error) => {
            tracing::warn!(%error, operation = %id, "an upload cannot begin yet");
            shared.operations.put_back(id);
        }
    }
}

/// Goes on with an upload that was begun, be it by an agent before this one.
pub(super) async fn go_on(
    shared: &Shared,
    id: OperationId,
    mut entry: Entry,
    cancel: &CancellationToken,
) {
    let Some(order) = entry.order.clone() else { return shared.operations.close(id) };
    let left = time_left(&entry, &order);
    let (outcome, file, problem) = tokio::select! {
        done = work(shared, id, &mut entry, &order) => match done {
            Ok((file, problem)) => (Outcome::Succeeded, Some(file), problem),
            Err(problem) => (Outcome::Failed, None, Some(problem)),
        },
        () = sleep(left) => (Outcome::TimedOut, None, None),
        () = cancel.cancelled() => (Outcome::Canceled, None, None),
    };
    // Only now: while it may go on, it is needed.
    shared.operations.spools.delete_archive(id);
    let report = RunReport {
        problem: problem.as_deref().map(short),
        started_at: entry.begun.map(|begun| begun.at),
        ended_at: Some(Moment::now().wall),
        file,
        ..blank(id)
    };
    record::end(shared, id, entry, outcome.event(report));
}

/// How much of its time is left. A restart of the machine does not give it more, as far as the wall
/// clock can tell.
fn time_left(entry: &Entry, order: &RunOrder) -> Duration {
    let now = Moment::now();
    let gone = entry.begun.map_or(0, |Begun { boot, mono, at, .. }| {
        if boot == now.boot {
            now.mono.saturating_sub(mono)
        } else {
            u64::try_from(now.wall.micros().saturating_sub(at.micros())).unwrap_or(0)
        }
    });
    let limit = Duration::from_millis(order.timeout_ms);
    limit.saturating_sub(Duration::from_micros(gone)).min(Duration::from_secs(u32::MAX.into()))
}

/// What the server has, and what went wrong after it had it.
type Stored = (FileSummary, Option<String>);

async fn work(
    shared: &Shared,
    id: OperationId,
    entry: &mut Entry,
    order: &RunOrder,
) -> Result<Stored, String> {
    let Action::Upload(upload) = &order.action else {
        return Err("it is no upload".to_owned());
    };
    let salt = *entry.salts.ok_or("the journal holds no salt for it")?.stdout;
    let file = match &entry.file {
        Some(file) => file.clone(),
        None => {
            let bounds = judge(shared, upload).map_err(|(_, reason)| reason)?;
            let source = open(shared, id, entry, bounds, upload).await?;
            let sent = source.sent.clone();
            let hash = send::send(shared, id, salt, source, upload.bytes_per_second).await?;
            let Sent { name, bytes, is_folder, .. } = sent;
            let file = FileSummary { name, bytes, hash, is_folder };
            entry.file = Some(file.clone());
            keep(shared, id, entry)?;
            file
        }
    };
    let problem = match (&entry.sent, upload.remove_source) {
        (Some(sent), true) => remove(shared, upload, sent.clone()).await.err(),
        _ => None,
    };
    Ok((file, problem))
}

/// Opens what is sent. What it is stands in the journal from then on: it is held to that, whichever
/// agent goes on with it.
async fn open(
    shared: &Shared,
    id: OperationId,
    entry: &mut Entry,
    bounds: Bounds,
    upload: &Upload,
) -> Result<Source, String> {
    let archive = shared.operations.spools.path(id, OutputStream::File);
    if let Some(sent) = entry.sent.clone() {
        let path = upload.path.clone();
        return blocking(move || Source::open_again(&bounds, &path, &archive, sent)).await;
    }
    shared.operations.spools.folder().map_err(|error| error.to_string())?;
    let asked = upload.clone();
    let limit = archive::Limits::new(upload.limit(), shared.store.folder().path());
    let guard = limit.guard();
    let source = blocking(move || Source::open(&bounds, &asked, &archive, &limit)).await?;
    drop(guard);
    entry.sent = Some(source.sent.clone());
    keep(shared, id, entry)?;
    Ok(source)
}

fn keep(shared: &Shared, id: OperationId, entry: &Entry) -> Result<(), String> {
    let kept = shared.store.write(|transaction| journal::put(transaction, id, entry));
    kept.map_err(|error| format!("the journal could not be written: {error}"))
}

/// Removes the source, when it is what was sent.
async fn remove(shared: &Shared, upload: &Upload, sent: Sent) -> Result<(), String> {
    let bounds = judge(shared, upload).map_err(|(_, reason)| reason);
    let path = upload.path.clone();
    let removed = match bounds {
        Ok(bounds) => {
            blocking(move || {
                let is_it = |found: &std::fs::Metadata| sent.is(found);
                match bounds.remove_file(&path, is_it) {
                    // An agent before this one has removed it, and not told.
                    Err(Failure::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                        Ok(())
                    }
                    removed => removed.map_err(|failure| failure.to_string()),
                }
            })
            .await
        }
        Err(reason) => Err(reason),
    };
    removed.map_err(|why| format!("the server has it, but the source could not be removed: {why}"))
}

/// Works on files in a thread of its own: those of the runtime are few, and what looks up names must
/// not wait for a folder that is packed, or a disk that is dead.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (done, waiting) = oneshot::channel();
    let thread = std::thread::Builder::new().name("upload".to_owned()).stack_size(STACK);
    let started = thread.spawn(move || drop(done.send(work())));
    started.map_err(|error| format!("no thread can be started: {error}"))?;
    waiting.await.unwrap_or_else(|_| Err("it failed, and did not say why".to_owned()))
}

/// The last part of a path, for people.
fn name_of(path: &str, home: &str) -> String {
    let last = PathBuf::from(path);
    let last = last.file_name().map(|name| name.to_string_lossy().into_owned());
    last.unwrap_or_else(|| home.to_owned())
}
