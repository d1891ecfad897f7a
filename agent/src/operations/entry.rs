//! The journal's entry of one operation: each state has what is known in it.

use muster_schemas::events::FileSummary;
use muster_schemas::wire::RunOrder;
use muster_schemas::{Event, Timestamp, codec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use uuid::Uuid;

use super::sent_file::Sent;
use crate::clock::Moment;
use crate::store::StoreError;
use crate::subprocess::Process;

/// Salts of a run's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Salts {
    pub(super) stdout: ByteArray<16>,
    pub(super) stderr: ByteArray<16>,
}

/// The start of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunStart {
    /// Id of the boot.
    pub(super) boot: Uuid,
    /// Time of the start, by the monotonic clock of that boot.
    pub(super) mono: u64,
    /// Time of the start, by the device's wall clock.
    pub(super) at: Timestamp,
    /// Random run tag, by which all processes of this run are found, and none of another agent.
    #[serde(rename = "mark")]
    pub(super) run_tag: Uuid,
}

/// The entry of one operation, in any state or in a known one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry<S = State> {
    /// Position in the order of arrival.
    pub(super) ticket: u64,
    /// Time at which the order expires.
    pub(super) expires_at: Timestamp,
    pub(super) state: S,
}

/// The state of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Canceled before its order arrived: it will never start.
    Barred,
    /// Accepted, and waiting.
    Accepted(Box<RunOrder>),
    /// Started: the program may have run, and must not run again.
    Started(Box<StartedRun>),
    /// Ended, and there is no room for the event of its end yet.
    EndPending { record: Option<StartRecord>, end: Box<Event> },
    /// Its end is recorded.
    Ended(Option<StartRecord>),
}

/// A run that was accepted, and perhaps started, and that is executed now.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ReadyRun {
    Accepted(Box<RunOrder>),
    /// The start was written together with the acceptance.
    Started(Box<StartedRun>),
}

/// A run that has started and not ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StartedRun {
    pub(super) order: Box<RunOrder>,
    pub(super) record: StartRecord,
    pub(super) upload: UploadProgress,
}

/// What the journal keeps of a run from its start on, also after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartRecord {
    pub(super) start: RunStart,
    pub(super) salts: Salts,
    pub(super) process: Option<Process>,
}

/// Progress of an upload.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum UploadProgress {
    /// The source was not opened yet, or the run is no upload.
    NotOpened,
    /// This file is being sent.
    Opened(Sent),
    /// The server has all of the file.
    Stored { sent: Sent, file: FileSummary },
}

impl<S> Entry<S> {
    /// Returns the entry in another state.
    pub(super) fn with<T>(self, state: T) -> Entry<T> {
        Entry { ticket: self.ticket, expires_at: self.expires_at, state }
    }
}

impl Entry {
    /// Returns the start record of a run that was started.
    pub(super) fn record(&self) -> Option<StartRecord> {
        match &self.state {
            State::Barred | State::Accepted(_) => None,
            State::Started(run) => Some(run.record),
            State::EndPending { record, .. } | State::Ended(record) => *record,
        }
    }

    /// Returns the entry as it is kept after the run has ended.
    pub(super) fn ended(self) -> Self {
        let record = self.record();
        self.with(State::Ended(record))
    }

    /// Returns the entry as it is kept while there is no room for the event of the end.
    pub(super) fn end_pending(self, end: Event) -> Self {
        let record = self.record();
        self.with(State::EndPending { record, end: Box::new(end) })
    }

    /// Returns the run, if it can be executed.
    pub(super) fn into_ready(self) -> Option<Entry<ReadyRun>> {
        let (ticket, expires_at) = (self.ticket, self.expires_at);
        let state = match self.state {
            State::Accepted(order) => ReadyRun::Accepted(order),
            State::Started(run) => ReadyRun::Started(run),
            State::Barred | State::EndPending { .. } | State::Ended(_) => return None,
        };
        Some(Entry { ticket, expires_at, state })
    }

    /// Encodes the entry for the journal.
    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(&StoredEntry::from(self.clone()))
    }

    /// Decodes an entry of the journal.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |problem| StoreError::Damaged { what: "the journal of runs", problem };
        let stored: StoredEntry =
            codec::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(stored.into_entry())
    }
}

impl ReadyRun {
    pub(super) fn order(&self) -> &RunOrder {
        match self {
            Self::Accepted(order) => order,
            Self::Started(run) => &run.order,
        }
    }
}

impl StartedRun {
    /// A run that starts now.
    pub(super) fn now(order: Box<RunOrder>) -> Self {
        let at = Moment::now();
        let start = RunStart { boot: at.boot, mono: at.mono, at: at.wall, run_tag: Uuid::new_v4() };
        let salts = Salts {
            stdout: ByteArray::new(rand::random()),
            stderr: ByteArray::new(rand::random()),
        };
        let record = StartRecord { start, salts, process: None };
        Self { order, record, upload: UploadProgress::NotOpened }
    }
}

impl From<Entry<StartedRun>> for Entry {
    fn from(entry: Entry<StartedRun>) -> Self {
        let Entry { ticket, expires_at, state } = entry;
        Self { ticket, expires_at, state: State::Started(Box::new(state)) }
    }
}

impl From<Entry<ReadyRun>> for Entry {
    fn from(entry: Entry<ReadyRun>) -> Self {
        let Entry { ticket, expires_at, state } = entry;
        let state = match state {
            ReadyRun::Accepted(order) => State::Accepted(order),
            ReadyRun::Started(run) => State::Started(run),
        };
        Self { ticket, expires_at, state }
    }
}

/// The stored form of an entry; its field names are those of the first version.
#[derive(Debug, Serialize, Deserialize)]
struct StoredEntry {
    ticket: u64,
    phase: StoredPhase,
    expires_at: Timestamp,
    /// The order, until the run has ended.
    #[serde(default)]
    order: Option<Box<RunOrder>>,
    #[serde(default)]
    begun: Option<RunStart>,
    #[serde(default)]
    process: Option<Process>,
    #[serde(default)]
    salts: Option<Salts>,
    /// The identity of the uploaded file, once it is known.
    #[serde(default)]
    sent: Option<Sent>,
    /// Summary of the stored file, once the server has all of it.
    #[serde(default)]
    file: Option<FileSummary>,
    /// The end, while there is no room for its event.
    #[serde(default)]
    end: Option<Box<Event>>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredPhase {
    Barred,
    Accepted,
    Begun,
    Ended,
}

impl From<Entry> for StoredEntry {
    fn from(entry: Entry) -> Self {
        let record = entry.record();
        let (mut order, mut sent, mut file, mut end) = (None, None, None, None);
        let phase = match entry.state {
            State::Barred => StoredPhase::Barred,
            State::Accepted(accepted) => {
                order = Some(accepted);
                StoredPhase::Accepted
            }
            State::Started(run) => {
                order = Some(run.order);
                (sent, file) = match run.upload {
                    UploadProgress::NotOpened => (None, None),
                    UploadProgress::Opened(sent) => (Some(sent), None),
                    UploadProgress::Stored { sent, file } => (Some(sent), Some(file)),
                };
                StoredPhase::Begun
            }
            State::EndPending { end: pending, .. } => {
                end = Some(pending);
                StoredPhase::Begun
            }
            State::Ended(_) => StoredPhase::Ended,
        };
        Self {
            ticket: entry.ticket,
            phase,
            expires_at: entry.expires_at,
            order,
            begun: record.map(|record| record.start),
            process: record.and_then(|record| record.process),
            salts: record.map(|record| record.salts),
            sent,
            file,
            end,
        }
    }
}

impl StoredEntry {
    /// Returns the entry; `None` if its phase requires a part that is missing.
    fn into_entry(self) -> Entry {
        let (start, salts, process) = (self.begun, self.salts, self.process);
        let record = start.zip(salts).map(|(start, salts)| StartRecord { start, salts, process });
        let state = match (self.phase, self.end) {
            (StoredPhase::Barred, _) => State::Barred,
            (StoredPhase::Accepted, _) => {
                self.order.map_or_else(|| incomplete(record), State::Accepted)
            }
            (StoredPhase::Begun, Some(end)) => State::EndPending { record, end },
            (StoredPhase::Begun, None) => {
                let upload = match (self.sent, self.file) {
                    (None, _) => UploadProgress::NotOpened,
                    (Some(sent), None) => UploadProgress::Opened(sent),
                    (Some(sent), Some(file)) => UploadProgress::Stored { sent, file },
                };
                match (self.order, record) {
                    (Some(order), Some(record)) => {
                        State::Started(Box::new(StartedRun { order, record, upload }))
                    }
                    _ => incomplete(record),
                }
            }
            (StoredPhase::Ended, _) => State::Ended(record),
        };
        Entry { ticket: self.ticket, expires_at: self.expires_at, state }
    }
}

/// The state of a run whose entry lacks a part: it is not continued, and never accepted again.
fn incomplete(record: Option<StartRecord>) -> State {
    tracing::warn!("the journal of runs has an incomplete entry; its run is not continued");
    State::Ended(record)
}

#[cfg(test)]
#[path = "entry_tests.rs"]
pub(super) mod tests;
