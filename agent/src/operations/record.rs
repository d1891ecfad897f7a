//! The events of a run, each recorded in one transaction with the run's journal entry.

use muster_schemas::events::{
    RefusalCause, RunCanceled, RunExpired, RunFailed, RunInterrupted, RunRejected, RunReport,
    RunStarted, RunSucceeded, RunTimedOut,
};
use muster_schemas::{Event, OperationId};
use serde_bytes::ByteArray;
use uuid::Uuid;

use super::journal::{self, Entry, Phase, RunStart, Salts};
use crate::clock::Moment;
use crate::outbox::RecordError;
use crate::run::Shared;
use crate::store::StoreError;

/// Maximum length of a message in an event, in characters.
const MAX_MESSAGE_CHARS: usize = 1000;

/// Truncates a message for an event.
pub(super) fn truncate(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// Returns an empty report.
pub(super) fn empty_report(operation: OperationId) -> RunReport {
    RunReport {
        operation,
        exit_code: None,
        signal: None,
        problem: None,
        started_at: None,
        ended_at: None,
        user_us: 0,
        system_us: 0,
        peak_memory: 0,
        stdout: Default::default(),
        stderr: Default::default(),
        file: None,
    }
}

/// Outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    Failed,
    TimedOut,
    Canceled,
    Interrupted,
}

impl Outcome {
    pub(super) fn event(self, report: RunReport) -> Event {
        match self {
            Self::Succeeded => RunSucceeded(report).into(),
            Self::Failed => RunFailed(report).into(),
            Self::TimedOut => RunTimedOut(report).into(),
            Self::Canceled => RunCanceled(report).into(),
            Self::Interrupted => RunInterrupted(report).into(),
        }
    }
}

/// Builds the event of a run that the device refuses.
pub(super) fn rejected(operation: OperationId, cause: RefusalCause, reason: &str) -> Event {
    RunRejected { operation, cause, reason: truncate(reason) }.into()
}

/// Builds the event of a run that has expired.
pub(super) fn expired(operation: OperationId) -> Event {
    RunExpired { operation }.into()
}

/// Records an event and the journal entry in one transaction.
pub(super) fn record_with_entry(
    shared: &Shared,
    id: OperationId,
    entry: &Entry,
    event: &Event,
) -> Result<u64, RecordError> {
    let seq = shared.outbox.record_in_transaction(event, Moment::now(), |transaction| {
        journal::put(transaction, id, entry)
    })?;
    shared.recorded.notify_one();
    Ok(seq)
}

/// Writes the start of a run to the journal, before anything starts. After this, it never starts
/// again.
pub(super) fn journal_start(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
) -> Result<Entry, StoreError> {
    if entry.phase == Phase::Begun {
        // The start was written together with the acceptance.
        return Ok(entry);
    }
    let entry = started_entry(entry);
    shared.store.write(|transaction| journal::put(transaction, id, &entry))?;
    Ok(entry)
}

/// Returns the journal entry of a run that starts.
pub(super) fn started_entry(entry: Entry) -> Entry {
    let at = Moment::now();
    Entry {
        phase: Phase::Begun,
        begun: Some(RunStart { boot: at.boot, mono: at.mono, at: at.wall, mark: Uuid::new_v4() }),
        salts: Some(Salts {
            stdout: ByteArray::new(rand::random()),
            stderr: ByteArray::new(rand::random()),
        }),
        ..entry
    }
}

/// The start of a run's program, with its time.
pub(super) struct RunStarting {
    event: Event,
    at: Moment,
}

impl RunStarting {
    /// The start of a run that starts now; `entry` must contain its process.
    pub(super) fn now(id: OperationId, entry: &Entry, user: Option<String>) -> Self {
        let pid = entry.process.map(|process| process.pid);
        Self { event: RunStarted { operation: id, pid, user }.into(), at: Moment::now() }
    }
}

/// Records that a run has just started, with the process in `entry`.
pub(super) fn record_started_now(
    shared: &Shared,
    id: OperationId,
    entry: &Entry,
    user: Option<String>,
) {
    record_started(shared, id, entry, &RunStarting::now(id, entry, user));
}

/// Records that a run has started. If the outbox is full, the process is written to the journal
/// anyway: the next agent process may have to find it.
pub(super) fn record_started(
    shared: &Shared,
    id: OperationId,
    entry: &Entry,
    started: &RunStarting,
) {
    let recorded = shared.outbox.record_in_transaction(&started.event, started.at, |transaction| {
        journal::put(transaction, id, entry)
    });
    shared.recorded.notify_one();
    if let Err(error) = recorded {
        tracing::warn!(%error, operation = %id, "failed to report the start of a run");
        // Not retried: it counts as dropped, unless there is room by now.
        let _ = shared.record(&started.event);
        if let Err(error) = shared.store.write(|transaction| journal::put(transaction, id, entry)) {
            tracing::warn!(%error, operation = %id, "failed to write the journal");
        }
    }
}

/// Records a run's end. If the outbox is full, the end is kept and recorded later by
/// [`record_held_ends`]: it is never lost and never counted as dropped.
pub(super) fn record_end(shared: &Shared, id: OperationId, entry: Entry, event: Event) {
    record_end_with_start(shared, id, entry, None, event);
}

/// Like [`end`], together with the start if that is not recorded yet.
pub(super) fn record_end_with_start(
    shared: &Shared,
    id: OperationId,
    entry: Entry,
    started: Option<&RunStarting>,
    event: Event,
) {
    tracing::info!(operation = %id, event = event.kind(), "a run has ended");
    if let Some(spool) = shared.operations.spools.get(id) {
        spool.end();
    }
    let ended = entry.clone().ended();
    let start = started.map(|started| (&started.event, started.at));
    let all: Vec<_> = start.into_iter().chain([(&event, Moment::now())]).collect();
    let recorded = shared
        .outbox
        .record_all_in_transaction(&all, |transaction| journal::put(transaction, id, &ended));
    shared.recorded.notify_one();
    if let Err(error) = recorded {
        tracing::warn!(%error, operation = %id, "failed to record the end of a run; retrying");
        if let Some(started) = started {
            record_started(shared, id, &entry, started);
        }
        let kept = Entry { phase: Phase::Begun, end: Some(Box::new(event.clone())), ..entry };
        // If the write fails, the end is only in memory.
        if let Err(error) = shared.store.write(|transaction| journal::put(transaction, id, &kept)) {
            tracing::warn!(%error, operation = %id, "failed to write the journal");
        }
        shared.operations.hold_end(id, event);
    }
    shared.operations.close(id);
}

/// Tries again to record the ends for which there was no room.
pub(super) fn record_held_ends(shared: &Shared) {
    for (id, event) in shared.operations.held_ends() {
        let entry = match journal::read(&shared.store, id) {
            Ok(Some(entry)) => entry.ended(),
            Ok(None) => Entry::new(0, Phase::Ended, Moment::now().wall),
            Err(error) => {
                tracing::debug!(%error, operation = %id, "failed to read the journal");
                return;
            }
        };
        match record_with_entry(shared, id, &entry, &event) {
            Ok(_) => shared.operations.remove_end(id),
            Err(RecordError::TooLarge { .. }) => {
                tracing::error!(operation = %id, "the end of a run is too large to be recorded");
                shared.operations.remove_end(id);
            }
            Err(error) => {
                tracing::debug!(%error, operation = %id, "the end of a run is still pending");
                return;
            }
        }
    }
}
