//! Projections: pure folds of the log into tables, with the checkpoint in the same transaction.
//!
//! A projection's rows and its checkpoint are committed together, and the checkpoint moves only if
//! it is where this runner left it. So two runners of one projection cannot do double work, and a
//! crash at any point repeats nothing.

mod runner;
mod transaction;

use async_trait::async_trait;
use muster_schemas::ProjectId;

use crate::error::StoreError;
use crate::read::StoredEvent;

pub use runner::{Progress, Runner, compare_tables};
pub use transaction::Transaction;

/// Why a projection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// An event that the projection names cannot be applied. It stops here, loudly: nothing is
    /// skipped in silence.
    #[error("projection {projection} cannot apply {kind} at position {position}: {problem}")]
    CannotApply {
        /// The projection.
        projection: String,
        /// The event's type.
        kind: String,
        /// Where it stands.
        position: u64,
        /// Why.
        problem: String,
    },
    /// PostgreSQL failed; tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProjectionError {
    /// An event that cannot be applied.
    #[must_use]
    pub fn cannot_apply(projection: &str, event: &StoredEvent, problem: impl ToString) -> Self {
        Self::CannotApply {
            projection: projection.to_owned(),
            kind: event.kind.clone(),
            position: event.position,
            problem: problem.to_string(),
        }
    }
}

/// A fold of the log into tables of its own.
#[async_trait]
pub trait Projection: Send + 'static {
    /// Its name with the version of its fold, such as `devices_v1`: the name of its checkpoint, and
    /// what its tables' names begin with. A changed fold has a new version, and so fills tables of
    /// its own beside the live ones.
    fn name(&self) -> &str;

    /// `CREATE TABLE IF NOT EXISTS …` for its tables; run at each start.
    fn tables(&self) -> String;

    /// The types that it names, when they are few and rare: then it is handed no others, and a log
    /// full of others costs it next to nothing. All types when empty.
    fn kinds(&self) -> &[&'static str] {
        &[]
    }

    /// Applies events in order. Types that it does not name are ignored. What it remembers of rows
    /// between batches holds only until [`Projection::forget`].
    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[StoredEvent],
    ) -> Result<(), ProjectionError>;

    /// A transaction did not commit, or somebody else moved the checkpoint: forget cached rows.
    fn forget(&mut self);
}
