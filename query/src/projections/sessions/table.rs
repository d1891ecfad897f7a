//! The table of sessions. There are few events, so each batch reads and writes the rows that it
//! changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::events::{
    SessionAttached, SessionDetached, SessionEnded, SessionRecorded, SessionRefused,
    SessionRequested, ShellEnded,
};
use muster_schemas::{Event, ProjectId, StreamName};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fold::Session;
use crate::projections::as_i64;
use crate::projections::devices::store_error;

const TYPES: &[&str] = &[
    SessionRequested::TYPE,
    SessionAttached::TYPE,
    SessionDetached::TYPE,
    SessionRefused::TYPE,
    SessionRecorded::TYPE,
    SessionEnded::TYPE,
    ShellEnded::TYPE,
];

/// Fills the table of sessions.
#[derive(Debug)]
pub struct Sessions {
    table: String,
}

impl Sessions {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into() }
    }
}

impl Sessions {
    async fn write_piece(
        &self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        session: Uuid,
        piece: &SessionRecorded,
    ) -> Result<(), ProjectionError> {
        let sql = format!(
            "INSERT INTO {}_pieces (project, session, recording, chunk, bytes, hash)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            self.table
        );
        let (project, hash) = (project.as_str(), piece.hash.0.as_slice());
        let (recording, chunk) = (i64::from(piece.recording), i64::from(piece.chunk));
        let bytes = as_i64(piece.bytes);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&project, &session, &recording, &chunk, &bytes, &hash];
        transaction.execute(&sql, &parameters).await.map_err(store_error("write a piece"))?;
        Ok(())
    }
}

#[async_trait]
impl Projection for Sessions {
    fn name(&self) -> &str {
        &self.table
    }

    fn kinds(&self) -> Vec<&'static str> {
        TYPES.to_vec()
    }

    fn tables(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {0} (
                 project          text COLLATE \"C\" NOT NULL,
                 session          uuid   NOT NULL,
                 device           uuid   NOT NULL,
                 status           text COLLATE \"C\" NOT NULL,
                 created_position bigint NOT NULL,
                 state            text   NOT NULL,
                 PRIMARY KEY (project, session)
             );
             CREATE TABLE IF NOT EXISTS {0}_pieces (
                 project   text COLLATE \"C\" NOT NULL,
                 session   uuid   NOT NULL,
                 recording bigint NOT NULL,
                 chunk     bigint NOT NULL,
                 bytes     bigint NOT NULL,
                 hash      bytea  NOT NULL,
                 PRIMARY KEY (project, session, recording, chunk)
             )",
            self.table
        )
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let mut all: Vec<(Uuid, Uuid, &StoredEvent, Event)> = Vec::new();
        for stored in events {
            let event = stored
                .event()
                .map_err(|error| ProjectionError::cannot_apply(&self.table, stored, &error))?;
            match (&stored.stream, &event) {
                (StreamName::Session(id, device), _) => all.push((id.0, device.0, stored, event)),
                (StreamName::DeviceReport(device, _), Event::ShellEnded(ended)) => {
                    all.push((ended.session.0, device.0, stored, event));
                }
                _ => {}
            }
        }
        let ids: Vec<Uuid> = all.iter().map(|(id, ..)| *id).collect();
        let sql = format!(
            "SELECT session, device, state FROM {} WHERE project = $1 AND session = ANY($2)",
            self.table
        );
        let rows = transaction
            .query(&sql, &[&project.as_str(), &ids])
            .await
            .map_err(store_error("read sessions"))?;
        let mut sessions: BTreeMap<Uuid, (Uuid, Session)> = BTreeMap::new();
        for row in rows {
            let session = serde_json::from_str(row.get(2))
                .map_err(|error| StoreError::Corrupt(format!("{}: {error}", self.table)))?;
            sessions.insert(row.get(0), (row.get(1), session));
        }
        for (id, device, stored, event) in all {
            if let Event::SessionRecorded(piece) = &event {
                self.write_piece(transaction, project, id, piece).await?;
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
        let sql = format!(
            "INSERT INTO {} (project, session, device, status, created_position, state)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (project, session) DO UPDATE SET status = excluded.status,
                 state = excluded.state",
            self.table
        );
        for (id, (device, session)) in sessions {
            let state = serde_json::to_string(&session)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            let position = as_i64(session.created_position);
            let (project, status) = (project.as_str(), session.state.as_str());
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&project, &id, &device, &status, &position, &state];
            transaction.execute(&sql, &parameters).await.map_err(store_error("write sessions"))?;
        }
        Ok(())
    }

    fn discard_cache(&mut self) {}
}
