//! Projections: pure folds of the log into tables, with the checkpoint in the same transaction.
//!
//! A projection's rows and its checkpoint are committed together, and the checkpoint moves only if
//! it is where this runner left it. So two runners of one projection cannot apply an event twice,
//! nor does a crash at any point.

mod runner;
mod state;
mod superseded;
mod table;
mod transaction;

use std::sync::Arc;

use async_trait::async_trait;
use muster_schemas::{Event, Position, ProjectId};

use crate::error::StoreError;
use crate::stored_event::StoredEvent;

pub use runner::{Progress, Runner, compare_tables};
pub use state::ProjectionState;
pub use table::{Column, Columns, Table, Write};
pub use transaction::Transaction;

/// Reason why a projection cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// An event of a type that the projection declares cannot be applied. The projection stops and
    /// reports it; events are never skipped silently.
    #[error("projection {projection} cannot apply {kind} at position {position}: {problem}")]
    CannotApply {
        /// Name of the projection.
        projection: String,
        /// Type of the event.
        kind: String,
        /// Position of the event.
        position: Position,
        /// Reason.
        problem: String,
    },
    /// PostgreSQL failed; the runner retries.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProjectionError {
    /// Creates the error of an event that cannot be applied.
    #[must_use]
    pub fn cannot_apply(projection: &str, event: &StoredEvent, problem: &impl ToString) -> Self {
        Self::CannotApply {
            projection: projection.to_owned(),
            kind: event.kind.clone(),
            position: event.position,
            problem: problem.to_string(),
        }
    }

    /// Decodes an event that a projection handles.
    ///
    /// # Errors
    /// When the event cannot be decoded.
    pub fn decode(projection: &str, stored: &StoredEvent) -> Result<Event, Self> {
        stored.event().map_err(|error| Self::cannot_apply(projection, stored, &error))
    }
}

/// A fold of the log into its own tables.
#[async_trait]
pub trait Projection: Send + 'static {
    /// Returns the name with the version of its fold, such as `devices_v1`: the name of its
    /// checkpoint, and the prefix of its tables' names. A changed fold has a new version, and so
    /// fills separate tables while the live ones are still used.
    fn name(&self) -> &str;

    /// Returns `CREATE TABLE IF NOT EXISTS …` for its tables; executed at each start.
    fn tables(&self) -> String;

    /// Returns the event types that it declares, if they are few and rare: then it gets no others,
    /// and other events in the log cost it next to nothing. All types if empty.
    fn kinds(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Whether it gets only events whose authority is proven. False for a projection of the log
    /// itself, which must not omit an event.
    fn needs_authority(&self) -> bool {
        true
    }

    /// Applies events in order. Types that it does not declare are ignored. Rows that it caches
    /// between batches are valid only until [`Projection::discard_cache`].
    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError>;

    /// Discards cached rows: a transaction did not commit, or another process moved the checkpoint.
    fn discard_cache(&mut self) {}
}
