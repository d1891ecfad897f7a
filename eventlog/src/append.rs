//! Requests to append to the log, and their results.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use muster_schemas::{Event, Hash, Position, StreamName, StreamVersion, Timestamp};
use sha2::Sha256;
use uuid::Uuid;

use crate::device_effects;
use crate::error::StoreError;

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub(crate) kind: &'static str,
    pub(crate) schema_version: u16,
    pub(crate) occurred_at: Timestamp,
    pub(crate) record: Bytes,
    pub(crate) salt: [u8; 32],
    /// HMAC-SHA-256(salt, record), computed outside of any lock.
    pub(crate) mac: [u8; 32],
    /// Proof that the command role recorded it; set by a log that has the authority key.
    pub(crate) authority: Option<Bytes>,
    /// The event, if the append transaction must apply it itself.
    pub(crate) effect: Option<Box<Event>>,
}

impl NewEvent {
    /// Creates an event that the server records.
    #[must_use]
    pub fn server(event: &Event, occurred_at: Timestamp) -> Self {
        Self::new(event, occurred_at, event.encode().into())
    }

    /// Creates an event that a device recorded: the log stores its sealed bytes unchanged.
    #[must_use]
    pub fn sealed(event: &Event, occurred_at: Timestamp, sealed: Bytes) -> Self {
        Self::new(event, occurred_at, sealed)
    }

    fn new(event: &Event, occurred_at: Timestamp, record: Bytes) -> Self {
        let salt: [u8; 32] = rand::random();
        let effect = device_effects::has_effect(event).then(|| Box::new(event.clone()));
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

/// HMAC-SHA-256(salt, record), which replaces the record in the Merkle tree.
#[must_use]
pub(crate) fn record_mac(salt: &[u8; 32], record: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(salt).expect("a key of any length");
    mac.update(record);
    mac.finalize().into_bytes().into()
}

/// Precondition of an append on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No precondition: append to the stream's current version.
    Any,
    /// The stream's newest version; 0 if it must not exist yet.
    Version(StreamVersion),
    /// For a device's reports: the newest `seq`, and the hash of that sealed event.
    Tip {
        /// Newest `seq`; 0 before the first.
        version: StreamVersion,
        /// Hash of that event; 32 zero bytes before the first.
        tip: Hash,
    },
}

/// Events for one stream.
#[derive(Clone, Debug)]
pub struct StreamAppend {
    /// Name of the stream.
    pub stream: StreamName,
    /// Precondition.
    pub expected: Expected,
    /// Events, oldest first; never empty.
    pub events: Vec<NewEvent>,
    /// For a device's reports: hash of the newest of these sealed events.
    pub tip: Option<Hash>,
}

/// Events that are appended atomically.
#[derive(Clone, Debug)]
pub struct Append {
    /// Idempotency key: an append with a committed id gets the result of the first one again. Kept
    /// for at least a day. A device's reports need none: their `seq` identifies them.
    pub append_id: Option<Uuid>,
    /// Hash of the request of `append_id`: the same id with another hash is refused.
    pub request_hash: Option<Hash>,
    /// Actor that caused the events: `token:<id>`, `device:<id>`, `role:ingest` …
    pub actor: String,
    /// Id of the request that the events belong to.
    pub correlation: Option<Uuid>,
    /// Id of the event or request that caused the events.
    pub causation: Option<Uuid>,
    /// Events by stream, in the order of their positions.
    pub streams: Vec<StreamAppend>,
}

impl Append {
    /// Creates an empty append by `actor`.
    #[must_use]
    pub fn by_actor(actor: impl Into<String>) -> Self {
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

/// Advances a reader's offset in the same transaction as the events that it read.
#[derive(Clone, Debug)]
pub struct OffsetMove {
    /// Name of the offset.
    pub name: String,
    /// Incarnation of the JetStream stream that was read.
    pub incarnation: String,
    /// Newest sequence number that this batch has processed.
    pub sequence: u64,
    /// Fence of the lease under which it was read; if another process holds the lease, nothing of
    /// the batch is appended.
    pub fence: i64,
}

/// Independent appends, each of which succeeds or fails separately, and an offset that advances
/// with them.
#[derive(Debug, Default)]
pub struct Batch {
    /// Appends of the batch.
    pub appends: Vec<Append>,
    /// Offset to advance.
    pub offset: Option<OffsetMove>,
}

/// Result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of its first event.
    pub first: Position,
    /// Position of its last event.
    pub last: Position,
    /// Time at which it was recorded, by PostgreSQL's clock.
    pub recorded_at: Timestamp,
    /// Hash of its request, if it had one.
    pub request_hash: Option<Hash>,
}

impl Appended {
    /// Whether a request with this hash may get this result. If either side has no hash, only the
    /// append id is compared.
    #[must_use]
    pub fn belongs_to(&self, request_hash: Option<Hash>) -> bool {
        match (self.request_hash, request_hash) {
            (Some(stored), Some(sent)) => stored == sent,
            _ => true,
        }
    }
}

/// Reason why nothing of an append is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The stream's version or tip does not match the precondition.
    #[error("stream {stream} is at version {actual}, not as expected")]
    Conflict {
        /// Name of the stream.
        stream: StreamName,
        /// Version of the stream.
        actual: StreamVersion,
        /// For a device's reports: hash of its newest sealed event.
        tip: Option<Hash>,
    },
    /// The stream is closed: its device was deleted or has enrolled again.
    #[error("stream {stream} is closed")]
    Closed {
        /// Name of the stream.
        stream: StreamName,
    },
    /// The append id belongs to a request with another hash.
    #[error("the append id was used for another request")]
    IdReused,
    /// Another process holds the lease under which the events were read.
    #[error("the lease on {0} was lost")]
    Fenced(String),
    /// The project does not exist.
    #[error("there is no project '{0}'")]
    NoProject(String),
    /// The store failed. The append may or may not be in the log: retry with the same append id.
    #[error(transparent)]
    Store(#[from] StoreError),
}
