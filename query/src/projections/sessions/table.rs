//! The table of sessions. There are few events, so each batch reads and writes the rows that it
//! changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::StoredEvent;
use muster_eventlog::as_i64;
use muster_eventlog::projection::{
    Column, Columns, Projection, ProjectionError, Table, Transaction, Write,
};
use muster_schemas::events::{
    SessionAttached, SessionDetached, SessionEnded, SessionRecorded, SessionRefused,
    SessionRequested, ShellEnded,
};
use muster_schemas::{Event, ProjectId, StreamName};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fold::Session;
use crate::projections::{decode, encode};

const TYPES: &[&str] = &[
    SessionRequested::TYPE,
    SessionAttached::TYPE,
    SessionDetached::TYPE,
    SessionRefused::TYPE,
    SessionRecorded::TYPE,
    SessionEnded::TYPE,
    ShellEnded::TYPE,
];

const COLUMNS: Columns = Columns {
    key: &[Column::new("session", "uuid")],
    values: &[
        Column::new("device", "uuid"),
        Column::key_text("status"),
        Column::new("created_position", "bigint"),
        Column::new("state", "text"),
    ],
};
/// Columns of the table of recorded pieces.
const PIECES: Columns = Columns {
    key: &[
        Column::new("session", "uuid"),
        Column::new("recording", "bigint"),
        Column::new("chunk", "bigint"),
    ],
    values: &[Column::new("bytes", "bigint"), Column::new("hash", "bytea")],
};

/// Fills the tables of sessions and of the pieces of their recordings.
#[derive(Debug)]
pub struct Sessions {
    table: Table,
    pieces: Table,
}

impl Sessions {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        let table = Table::new(table, COLUMNS);
        Self { pieces: Table::new(format!("{}_pieces", table.name()), PIECES), table }
    }
}

/// The pieces to write, as one array for each column.
#[derive(Default)]
struct Pieces {
    session: Vec<Uuid>,
    recording: Vec<i64>,
    chunk: Vec<i64>,
    bytes: Vec<i64>,
    hash: Vec<Vec<u8>>,
}

impl Pieces {
    fn push(&mut self, session: Uuid, piece: &SessionRecorded) {
        self.session.push(session);
        self.recording.push(i64::from(piece.recording));
        self.chunk.push(i64::from(piece.chunk));
        self.bytes.push(as_i64(piece.bytes));
        self.hash.push(piece.hash.0.to_vec());
    }
}

#[async_trait]
impl Projection for Sessions {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn kinds(&self) -> Vec<&'static str> {
        TYPES.to_vec()
    }

    fn tables(&self) -> String {
        format!("{}; {}", self.table.create(), self.pieces.create())
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let mut all: Vec<(Uuid, Uuid, &StoredEvent, Event)> = Vec::new();
        for stored in events {
            let event = ProjectionError::decode(self.table.name(), stored)?;
            match (&stored.stream, &event) {
                (StreamName::Session(id, device), _) => all.push((id.0, device.0, stored, event)),
                (StreamName::DeviceReport(device, _), Event::ShellEnded(ended)) => {
                    all.push((ended.session.0, device.0, stored, event));
                }
                _ => {}
            }
        }
        let ids: Vec<Uuid> = all.iter().map(|(id, ..)| *id).collect();
        let project = project.as_str();
        let rows = self.table.read(transaction, project, &[&ids], "session, device, state").await?;
        let mut sessions: BTreeMap<Uuid, (Uuid, Session)> = BTreeMap::new();
        for row in rows {
            sessions.insert(row.get(0), (row.get(1), decode(&self.table, row.get(2))?));
        }
        let mut pieces = Pieces::default();
        for (id, device, stored, event) in all {
            if let Event::SessionRecorded(piece) = &event {
                pieces.push(id, piece);
            }
            let is_devices_word = matches!(event, Event::ShellEnded(_));
            let existing = match sessions.entry(id) {
                // A device's event changes only sessions of that device, and creates none.
                Entry::Vacant(_) if is_devices_word => continue,
                Entry::Occupied(existing) if is_devices_word && existing.get().0 != device => {
                    continue;
                }
                entry => entry.or_insert_with(|| (device, Session::default())),
            };
            existing.1.evolve(stored, event);
        }
        let ids: Vec<Uuid> = sessions.keys().copied().collect();
        let (devices, sessions): (Vec<Uuid>, Vec<Session>) = sessions.into_values().unzip();
        let status: Vec<&str> = sessions.iter().map(|session| session.state.as_str()).collect();
        let created: Vec<i64> =
            sessions.iter().map(|session| as_i64(session.created_position)).collect();
        let states: Vec<String> = sessions
            .iter()
            .map(|session| encode(&self.table, session))
            .collect::<Result<_, _>>()?;
        let arrays: [&(dyn ToSql + Sync); 5] = [&ids, &devices, &status, &created, &states];
        self.table.write(transaction, project, Write::Upsert, &arrays).await?;
        if pieces.session.is_empty() {
            return Ok(());
        }
        let Pieces { session, recording, chunk, bytes, hash } = &pieces;
        let arrays: [&(dyn ToSql + Sync); 5] = [session, recording, chunk, bytes, hash];
        Ok(self.pieces.write(transaction, project, Write::InsertMissing, &arrays).await?)
    }
}
