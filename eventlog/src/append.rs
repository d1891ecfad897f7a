//! What can be asked of the log, and what it answers.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use muster_schemas::{Event, Hash, StreamName, Timestamp};
use sha2::Sha256;
use uuid::Uuid;

use crate::error::StoreError;

/// An event that is not in the log yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub(crate) kind: &'static str,
    pub(crate) schema_version: u16,
    pub(crate) occurred_at: Timestamp,
    pub(crate) record: Bytes,
    pub(crate) salt: [u8; 32],
    /// HMAC-SHA-256(salt, record): made here, outside of any lock.
    pub(crate) mac: [u8; 32],
    /// Proof that the command role recorded it; set by a log that holds the key.
    pub(crate) authority: Option<Bytes>,
    /// What the append transaction itself must act on.
    pub(crate) effect: Option<Box<Event>>,
}

impl NewEvent {
    /// A fact that the server records itself.
    #[must_use]
    pub fn server(event: &Event, occurred_at: Timestamp) -> Self {
        Self::new(event, occurred_at, event.encode().into())
    }

    /// A fact that a device recorded: its sealed bytes go into the log as they came.
    #[must_use]
    pub fn sealed(event: &Event, occurred_at: Timestamp, sealed: Bytes) -> Self {
        Self::new(event, occurred_at, sealed)
    }

    fn new(event: &Event, occurred_at: Timestamp, record: Bytes) -> Self {
        let salt: [u8; 32] = rand::random();
        let effect = crate::device_keys::has_effect(event).then(|| Box::new(event.clone()));
        Self {
            kind: event.kind(),
            schema_version: event.version(),
            occurred_at,
            mac: record_mac(&salt, &record),
            record,
            salt,
            authority: None,
            effect,
        }
    }
}

/// HMAC-SHA-256(salt, record): what stands for the record in the Merkle tree.
#[must_use]
pub(crate) fn record_mac(salt: &[u8; 32], record: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(salt).expect("a key of any length");
    mac.update(record);
    mac.finalize().into_bytes().into()
}

/// What must be true of a stream for an append to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: append after whatever is there.
    Any,
    /// The stream's newest version; 0 when it must not exist yet.
    Version(u64),
    /// A device's reports: the newest `seq`, and the hash of that sealed event.
    Tip {
        /// The newest `seq`; 0 before the first.
        version: u64,
        /// The hash; 32 zero bytes before the first.
        tip: Hash,
    },
}

/// Events for one stream.
#[derive(Clone, Debug)]
pub struct StreamAppend {
    /// Where they go.
    pub stream: StreamName,
    /// What must be true.
    pub expected: Expected,
    /// The events, oldest first; never empty.
    pub events: Vec<NewEvent>,
    /// For a device's reports: the hash of the newest of these sealed events.
    pub tip: Option<Hash>,
}

/// Events that go into the log together, or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// Makes a retry safe: an append with an id that was committed gets the first result again.
    /// Kept for at least a day. A device's reports need none: their `seq` says it.
    pub append_id: Option<Uuid>,
    /// Hash of the request that `append_id` belongs to: the same id with another hash is refused.
    pub request_hash: Option<Hash>,
    /// Who caused this: `token:<id>`, `device:<id>`, `role:ingest` …
    pub actor: String,
    /// The request that this belongs to.
    pub correlation: Option<Uuid>,
    /// The event or request that caused this.
    pub causation: Option<Uuid>,
    /// The events by stream, in the order in which they go into the log.
    pub streams: Vec<StreamAppend>,
}

impl Append {
    /// An append by `actor` with nothing in it yet.
    #[must_use]
    pub fn by(actor: impl Into<String>) -> Self {
        Self {
            append_id: None,
            request_hash: None,
            actor: actor.into(),
            correlation: None,
            causation: None,
            streams: Vec::new(),
        }
    }

    /// Adds events for a stream.
    #[must_use]
    pub fn stream(mut self, stream: StreamName, expected: Expected, events: Vec<NewEvent>) -> Self {
        self.streams.push(StreamAppend { stream, expected, events, tip: None });
        self
    }

    pub(crate) fn events(&self) -> usize {
        self.streams.iter().map(|stream| stream.events.len()).sum()
    }
}

/// Moves a reader's offset in the same transaction as what it read.
#[derive(Clone, Debug)]
pub struct OffsetMove {
    /// The offset's name.
    pub name: String,
    /// Which incarnation of the JetStream stream was read.
    pub incarnation: String,
    /// The newest sequence that is dealt with by this batch.
    pub sequence: u64,
    /// The lease under which it was read; when another one holds it, nothing of the batch is
    /// appended.
    pub fence: i64,
}

/// Many independent appends, each of which succeeds or fails alone, and an offset that moves with
/// them.
#[derive(Debug, Default)]
pub struct Batch {
    /// The appends.
    pub appends: Vec<Append>,
    /// The offset.
    pub offset: Option<OffsetMove>,
}

/// Where an append stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The position of its first event.
    pub first: u64,
    /// The position of its last event.
    pub last: u64,
    /// When it was recorded, by PostgreSQL's clock.
    pub recorded_at: Timestamp,
    /// Hash of the request that made it, if that had one.
    pub request_hash: Option<Hash>,
}

impl Appended {
    /// Whether a request with this hash may be answered with this result. Without a hash on either
    /// side the append id alone decides.
    #[must_use]
    pub fn belongs_to(&self, request_hash: Option<Hash>) -> bool {
        match (self.request_hash, request_hash) {
            (Some(stored), Some(sent)) => stored == sent,
            _ => true,
        }
    }
}

/// Why nothing of an append is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The stream is not where it was expected to be.
    #[error("stream {stream} is at version {actual}, not as expected")]
    Conflict {
        /// The stream.
        stream: StreamName,
        /// Its version.
        actual: u64,
        /// For a device's reports: the hash of its newest sealed event.
        tip: Option<Hash>,
    },
    /// The stream takes no more events: its device was deleted, or enrolled again.
    #[error("stream {stream} is closed")]
    Closed {
        /// The stream.
        stream: StreamName,
    },
    /// The append id belongs to a request with another hash.
    #[error("the append id was used for another request")]
    IdReused,
    /// Another process holds the lease under which this was read.
    #[error("the lease on {0} was lost")]
    Fenced(String),
    /// There is no such project.
    #[error("there is no project '{0}'")]
    NoProject(String),
    /// The store failed. The append may be in the log or not: ask again with the same append id.
    #[error(transparent)]
    Store(#[from] StoreError),
}
