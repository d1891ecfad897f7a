//! The events of a run, each recorded in one transaction with the run's journal entry.

use std::sync::Arc;

use muster_schemas::events::{
    RefusalCause, RunCanceled, RunExpired, RunFailed, RunInterrupted, RunRejected, RunReport,
    RunStarted, RunSucceeded, RunTimedOut,
};
use muster_schemas::{Event, OperationId, Seq};

use super::entry::{Entry, ReadyRun, StartedRun, State};
use super::journal;
use super::queue::RunQueue;
use super::spool::Spools;
use crate::clock::Moment;
use crate::outbox::{RecordError, Recorder};
use crate::store::{Store, StoreError};
use crate::subprocess::Launcher;

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

/// The start of a run's program, with its time.
pub(super) struct RunStarting {
    event: Event,
    at: Moment,
}

impl RunStarting {
    /// The start of a run that starts now.
    pub(super) fn now(id: OperationId, run: &StartedRun, user: Option<String>) -> Self {
        let pid = run.record.process.map(|process| process.pid);
        Self { event: RunStarted { operation: id, pid, user }.into(), at: Moment::now() }
    }
}

/// The runs of this device: those that are open, their journal, events and outputs.
pub(super) struct Runs {
    pub(super) store: Arc<Store>,
    pub(super) recorder: Recorder,
    pub(super) queue: RunQueue,
    pub(super) spools: Spools,
    pub(super) launcher: Arc<Launcher>,
}

impl Runs {
    /// Reads a run's journal entry.
    pub(super) fn read(&self, id: OperationId) -> Result<Option<Entry>, StoreError> {
        journal::read(&self.store, id)
    }

    /// Writes a run's journal entry.
    pub(super) fn put(&self, id: OperationId, entry: &Entry) -> Result<(), StoreError> {
        self.store.write(|transaction| journal::put(transaction, id, entry))
    }

    /// Records an event and the journal entry in one transaction.
    pub(super) fn record_with_entry(
        &self,
        id: OperationId,
        entry: &Entry,
        event: &Event,
    ) -> Result<Seq, RecordError> {
        self.recorder.record_in_transaction(&[(event, Moment::now())], |transaction| {
            journal::put(transaction, id, entry)
        })
    }

    /// Writes the start of a run to the journal, before anything starts. After this, it never
    /// starts again.
    pub(super) fn journal_start(
        &self,
        id: OperationId,
        entry: Entry<ReadyRun>,
    ) -> Result<Entry<StartedRun>, StoreError> {
        let Entry { ticket, expires_at, state } = entry;
        match state {
            ReadyRun::Started(run) => Ok(Entry { ticket, expires_at, state: *run }),
            ReadyRun::Accepted(order) => {
                let entry = Entry { ticket, expires_at, state: StartedRun::now(order) };
                self.put(id, &entry.clone().into())?;
                Ok(entry)
            }
        }
    }

    /// Records that a run has just started, with the process in `entry`.
    pub(super) fn record_started_now(
        &self,
        id: OperationId,
        entry: &Entry<StartedRun>,
        user: Option<String>,
    ) {
        let started = RunStarting::now(id, &entry.state, user);
        self.record_started(id, &entry.clone().into(), &started);
    }

    /// Records that a run has started. If the outbox is full, the process is written to the journal
    /// anyway: the next agent process may have to find it.
    pub(super) fn record_started(&self, id: OperationId, entry: &Entry, started: &RunStarting) {
        let events = [(&started.event, started.at)];
        let recorded = self
            .recorder
            .record_in_transaction(&events, |transaction| journal::put(transaction, id, entry));
        if let Err(error) = recorded {
            tracing::warn!(%error, operation = %id, "failed to report the start of a run");
            // Not retried: it counts as dropped, unless there is room by now.
            let _ = self.recorder.record(&started.event);
            if let Err(error) = self.put(id, entry) {
                tracing::warn!(%error, operation = %id, "failed to write the journal");
            }
        }
    }

    /// Records a run's end. If the outbox is full, the end is kept and recorded later by
    /// [`Self::record_held_ends`]: it is never lost and never counted as dropped.
    pub(super) fn record_end(&self, id: OperationId, entry: impl Into<Entry>, event: Event) {
        self.record_end_with_start(id, entry.into(), None, event);
    }

    /// Like [`Self::record_end`], together with the start if that is not recorded yet.
    pub(super) fn record_end_with_start(
        &self,
        id: OperationId,
        entry: Entry,
        started: Option<&RunStarting>,
        event: Event,
    ) {
        tracing::info!(operation = %id, event = event.kind(), "a run has ended");
        if let Some(spool) = self.spools.get(id) {
            spool.end();
        }
        let ended = entry.clone().ended();
        let start = started.map(|started| (&started.event, started.at));
        let all: Vec<_> = start.into_iter().chain([(&event, Moment::now())]).collect();
        let recorded = self
            .recorder
            .record_in_transaction(&all, |transaction| journal::put(transaction, id, &ended));
        if let Err(error) = recorded {
            tracing::warn!(%error, operation = %id, "failed to record the end of a run; retrying");
            if let Some(started) = started {
                self.record_started(id, &entry, started);
            }
            // If the write fails, the end is only in memory.
            if let Err(error) = self.put(id, &entry.end_pending(event.clone())) {
                tracing::warn!(%error, operation = %id, "failed to write the journal");
            }
            self.queue.hold_end(id, event);
        }
        self.queue.close(id);
    }

    /// Tries again to record the ends for which there was no room.
    pub(super) fn record_held_ends(&self) {
        for (id, event) in self.queue.held_ends() {
            let entry = match self.read(id) {
                Ok(Some(entry)) => entry.ended(),
                Ok(None) => {
                    let expires_at = Moment::now().wall;
                    Entry { ticket: 0, expires_at, state: State::Ended(None) }
                }
                Err(error) => {
                    tracing::debug!(%error, operation = %id, "failed to read the journal");
                    return;
                }
            };
            match self.record_with_entry(id, &entry, &event) {
                Ok(_) => self.queue.remove_end(id),
                Err(RecordError::TooLarge { .. }) => {
                    tracing::error!(
                        operation = %id,
                        "the end of a run is too large to be recorded"
                    );
                    self.queue.remove_end(id);
                }
                Err(error) => {
                    tracing::debug!(%error, operation = %id, "the end of a run is still pending");
                    return;
                }
            }
        }
    }
}
