//! The state of projections, as their checkpoints show it, for every process.

use async_recursion::async_recursion as boxed;
use muster_schemas::{Position, ProjectId};
use tokio_postgres::Row;

use crate::error::{ErrorContext, StoreError};
use crate::integers::number;
use crate::log::EventLog;

/// State of a projection in one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionState {
    /// Name of the projection.
    pub name: String,
    /// Project of the log.
    pub project: String,
    /// Position up to which it has read the log.
    pub position: Position,
    /// Number of events that it has not read yet.
    pub lag: u64,
    /// Event at which it stopped.
    pub failure: Option<String>,
}

impl ProjectionState {
    fn from_row(row: &Row) -> Self {
        Self {
            name: row.get(0),
            project: row.get(1),
            position: number(row, 2),
            lag: number(row, 3),
            failure: row.get(4),
        }
    }
}

impl EventLog {
    /// Returns the state of each projection, in this project or in all, by name. Those of earlier
    /// releases are included.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn projection_states(
        &self,
        project: Option<&ProjectId>,
    ) -> Result<Vec<ProjectionState>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT projection, project, position, lag, failure FROM projection_states
                 WHERE $1::text IS NULL OR project = $1 ORDER BY projection, project",
                &[&project.map(ProjectId::as_str)],
            )
            .await
            .while_trying("read the states of the projections")?;
        Ok(rows.iter().map(ProjectionState::from_row).collect())
    }

    /// Returns the state of the one of these projections that has stopped, or else has the largest
    /// lag, in any project; one without a checkpoint has read nothing.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    #[boxed]
    pub async fn worst_projection(
        &self,
        names: &[&str],
    ) -> Result<Option<ProjectionState>, StoreError> {
        let client = self.stores().pool.get().await?;
        let row = client
            .query_opt(
                "SELECT n.name, h.project, coalesce(c.position, 0),
                        greatest(h.position - coalesce(c.position, 0), 0) AS lag, c.failure
                 FROM heads h CROSS JOIN unnest($1::text[]) AS n (name)
                 LEFT JOIN checkpoints c ON c.project = h.project AND c.projection = n.name
                 ORDER BY c.failure IS NULL, lag DESC LIMIT 1",
                &[&names],
            )
            .await
            .while_trying("read the states of the projections")?;
        Ok(row.as_ref().map(ProjectionState::from_row))
    }
}
