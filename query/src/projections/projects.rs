//! The projects, from the log `system`. There are few rows, so each event is one statement.

use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::events::{
    ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored, ProjectRetentionSet,
};
use muster_schemas::{Event, ProjectId, Retention, StreamName};

use muster_eventlog::as_i64;

/// Name of the live table.
pub const TABLE: &str = "projects_v3";

const TYPES: &[&str] = &[
    ProjectCreated::TYPE,
    ProjectRenamed::TYPE,
    ProjectArchived::TYPE,
    ProjectRestored::TYPE,
    ProjectRetentionSet::TYPE,
];

/// Fills the table of projects.
#[derive(Debug)]
pub struct Projects {
    table: String,
}

impl Projects {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into() }
    }

    async fn write(
        &self,
        transaction: &Transaction<'_>,
        id: &ProjectId,
        stored: &StoredEvent,
    ) -> Result<(), ProjectionError> {
        let event = ProjectionError::decode(&self.table, stored)?;
        let (title, archived, retention) = match event {
            Event::ProjectCreated(event) => (Some(event.title.to_string()), None, None),
            Event::ProjectRenamed(event) => (Some(event.title.to_string()), None, None),
            Event::ProjectArchived(_) => (None, Some(true), None),
            Event::ProjectRestored(_) => (None, Some(false), None),
            Event::ProjectRetentionSet(event) => (None, None, Some(event.retention.to_string())),
            _ => return Ok(()),
        };
        let sql = format!(
            "INSERT INTO {} AS p (id, title, archived, retention, created_at, created_by, version)
             VALUES ($1, coalesce($2, ''), coalesce($3, false), coalesce($4, '{}'), $5, $6, $7)
             ON CONFLICT (id) DO UPDATE SET title = coalesce($2, p.title),
                 archived = coalesce($3, p.archived), retention = coalesce($4, p.retention),
                 version = excluded.version",
            self.table,
            Retention::Default
        );
        let recorded_at = stored.recorded_at.micros();
        transaction
            .execute(
                &sql,
                &[
                    &id.as_str(),
                    &title,
                    &archived,
                    &retention,
                    &recorded_at,
                    &stored.actor,
                    &as_i64(stored.stream_version),
                ],
            )
            .await
            .map_err(StoreError::query("write projects"))?;
        Ok(())
    }
}

#[async_trait]
impl Projection for Projects {
    fn name(&self) -> &str {
        &self.table
    }

    fn kinds(&self) -> Vec<&'static str> {
        TYPES.to_vec()
    }

    fn tables(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (
                 id         text COLLATE \"C\" PRIMARY KEY,
                 title      text    NOT NULL,
                 archived   boolean NOT NULL,
                 retention  text    NOT NULL,
                 created_at bigint  NOT NULL,  -- microseconds since 1970
                 created_by text    NOT NULL,
                 version    bigint  NOT NULL
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
        if !project.is_system() {
            return Ok(());
        }
        for stored in events {
            if let StreamName::Project(id) = &stored.stream {
                self.write(transaction, id, stored).await?;
            }
        }
        Ok(())
    }
}
