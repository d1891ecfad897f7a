//! An event as the log stores it.

use bytes::Bytes;
use muster_schemas::events::EventError;
use muster_schemas::{
    DeviceEnvelope, Event, Hash, Position, ProjectId, StreamName, StreamVersion, Timestamp,
};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::append::record_mac;
use crate::error::StoreError;
use crate::integers::number;
use crate::merkle::Entry;

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Position in the project's log, from 1.
    pub position: Position,
    /// Stream of the event.
    pub stream: StreamName,
    /// Version of the stream after the event, from 1.
    pub stream_version: StreamVersion,
    /// Type of the event.
    pub kind: String,
    /// Version of the type's schema.
    pub schema_version: u16,
    /// Time of the event, as claimed by its recorder.
    pub occurred_at: Timestamp,
    /// Time at which it was appended, by PostgreSQL's clock.
    pub recorded_at: Timestamp,
    /// Actor that caused it.
    pub actor: String,
    /// Id of the request that it belongs to.
    pub correlation: Option<Uuid>,
    /// Id of its cause.
    pub causation: Option<Uuid>,
    /// Exact bytes: CBOR, or a device's COSE_Sign1.
    pub record: Bytes,
    /// Salt of the record's MAC in the Merkle tree.
    pub salt: Bytes,
    /// Proof that the command role recorded it; see [`crate::EventLog::is_authentic`].
    pub authority: Option<Bytes>,
}

impl AsRef<Self> for StoredEvent {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Columns of [`StoredEvent`], in the order of its fields.
pub(crate) const COLUMNS: &str = "position, stream, stream_version, type, schema_version, \
     occurred_at, (extract(epoch FROM recorded_at) * 1000000)::bigint, actor, correlation, \
     causation, record, salt, authority";

impl StoredEvent {
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        let stream: &str = row.get(1);
        Ok(Self {
            position: number(row, 0),
            stream: stream
                .parse()
                .map_err(|error| StoreError::Corrupt(format!("the log: {error}")))?,
            stream_version: number(row, 2),
            kind: row.get(3),
            schema_version: row.get::<_, i16>(4).unsigned_abs(),
            occurred_at: Timestamp(row.get(5)),
            recorded_at: Timestamp(row.get(6)),
            actor: row.get(7),
            correlation: row.get(8),
            causation: row.get(9),
            record: Bytes::copy_from_slice(row.get(10)),
            salt: Bytes::copy_from_slice(row.get(11)),
            authority: row.get::<_, Option<&[u8]>>(12).map(Bytes::copy_from_slice),
        })
    }

    /// Whether the record is a device's sealed event, rather than the server's CBOR. A tagged
    /// COSE_Sign1 starts with the byte 0xd2, a map never does.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.record.first() == Some(&0xd2)
    }

    /// Decodes the event and lifts it to the newest version.
    ///
    /// # Errors
    /// When the record does not match the row's type and version.
    pub fn event(&self) -> Result<Event, EventError> {
        if self.is_sealed() {
            let envelope = DeviceEnvelope::from_sealed(&self.record)
                .map_err(|_| EventError::UnknownType(self.kind.clone()))?;
            Event::decode(&self.kind, self.schema_version, &envelope.data)
        } else {
            Event::decode(&self.kind, self.schema_version, &self.record)
        }
    }

    /// Computes the leaf of this row in its project's Merkle tree, from the row's current content.
    #[must_use]
    pub fn leaf(&self, project: &ProjectId) -> Hash {
        let salt: [u8; 32] = self.salt.as_ref().try_into().unwrap_or_default();
        Entry {
            project: project.as_str(),
            position: self.position,
            recorded_at: self.recorded_at,
            stream: &self.stream.to_string(),
            stream_version: self.stream_version,
            kind: &self.kind,
            schema_version: self.schema_version,
            occurred_at: self.occurred_at,
            actor: &self.actor,
            correlation: self.correlation,
            causation: self.causation,
            mac: record_mac(&salt, &self.record),
        }
        .leaf()
    }
}
