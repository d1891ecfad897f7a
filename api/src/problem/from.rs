//! Conversion of the store's errors to problems.

use muster_eventlog::{AppendError, StoreError};
use muster_schemas::errors::error_chain;

use super::{Kind, Problem};

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_disk_full() {
            tracing::warn!(error = %error_chain(&error), "the database's disk is full");
            Self::new(
                Kind::StorageFull,
                "nothing was written: the database's disk is full. Free space on it; reads still \
                work, and devices keep their events",
            )
        } else if error.is_unavailable() {
            tracing::warn!(error = %error_chain(&error), "PostgreSQL is unavailable");
            Self::unavailable("the database is unavailable; try again", 2)
        } else if error.is_query_timeout() {
            Self::unavailable(
                "the query took longer than 20 seconds and was canceled; request less data: a \
                shorter range of positions or of time, or one device",
                30,
            )
        } else {
            Self::internal(&error)
        }
    }
}

impl From<AppendError> for Problem {
    /// For errors that a handler did not process itself.
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } => Self::new(
                Kind::Conflict,
                format!("{error}: it was changed in the meantime; read it again, then retry"),
            ),
            AppendError::IdReused => Self::new(
                Kind::IdempotencyKeyReused,
                "this Idempotency-Key was used for a request with another body; send a new key with \
                 each new request, and the same body with each retry",
            ),
            AppendError::Closed { .. } => Self::new(Kind::Gone, error.to_string()),
            AppendError::NoProject(_) => Self::not_found(error.to_string()),
            AppendError::Fenced(_) => Self::internal(&error),
            AppendError::Store(error) => error.into(),
        }
    }
}
