//! What the store says, as a problem.

use muster_eventlog::{AppendError, StoreError};

use super::{Kind, Problem};

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let away = match &error {
            StoreError::Connect(_) | StoreError::ShuttingDown => true,
            // Without PostgreSQL's own words, the connection was lost.
            StoreError::Query { source, .. } => source.as_db_error().is_none(),
            _ => false,
        };
        if away {
            tracing::warn!(error = %super::describe(&error), "PostgreSQL is away");
            Self::unavailable("the database is away; try again", 2)
        } else {
            Self::internal(&error)
        }
    }
}

impl From<AppendError> for Problem {
    /// For what a handler did not deal with itself.
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } => Self::new(
                Kind::Conflict,
                format!(
                    "{error}: something else changed it in the meantime; read it again, then try again"
                ),
            ),
            AppendError::Closed { .. } => Self::new(Kind::Gone, error.to_string()),
            AppendError::NoProject(_) => Self::not_found(error.to_string()),
            AppendError::Fenced(_) => Self::internal(&error),
            AppendError::Store(error) => error.into(),
        }
    }
}
