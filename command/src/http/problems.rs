//! Conversion of the service's errors to HTTP problems.

use muster_api::Problem;
use muster_api::problem::Kind;
use muster_schemas::errors::error_chain;

use crate::channels::Unreachable;
use crate::domain::{Conflict, NotEnrolled, Rejection};
use crate::error::CommandError;

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Rejected(rejection) => rejection.into(),
            CommandError::VersionMismatch(version) => Self::new(
                Kind::PreconditionFailed,
                format!(
                    "the resource is at version \"{version}\", not at the version in If-Match; \
                     read it again, then retry"
                ),
            ),
            CommandError::Existence { exists } => Self::new(
                Kind::PreconditionFailed,
                if exists {
                    "the resource exists, and If-None-Match requires that it does not"
                } else {
                    "the resource does not exist, and If-Match requires that it does"
                },
            ),
            CommandError::IdentityNotProven(what) => Self::new(Kind::Unauthorized, what),
            CommandError::Store(error) => error.into(),
            CommandError::Append(error) => error.into(),
            CommandError::Stored(error) => Self::internal(&error),
            CommandError::Blob(error) if error.is_disk_full() => {
                tracing::warn!(error = %error_chain(&error), "the blob store's disk is full");
                Self::new(
                    Kind::StorageFull,
                    "nothing was written: the disk of the blob store is full; free space on it",
                )
            }
            CommandError::Blob(error) => {
                tracing::warn!(
                    error = %error_chain(&error),
                    "the blob store failed"
                );
                Self::unavailable("the blob store is unavailable; see the server's log", 10)
            }
            CommandError::Key(error) => Self::internal(&error),
            CommandError::Seal(error) => Self::internal(&error),
            CommandError::Broker(_) | CommandError::Query(_) => {
                Self::unavailable(format!("{error}; try again"), 2)
            }
        }
    }
}

impl From<Unreachable> for Problem {
    fn from(error: Unreachable) -> Self {
        let kind = match error {
            Unreachable::Command(error) => return error.into(),
            Unreachable::Offline { .. } => Kind::DeviceOffline,
            Unreachable::NotEnrolled { .. } | Unreachable::Pending { .. } => {
                Kind::DeviceNotEnrolled
            }
            Unreachable::Revoked { .. } => Kind::DeviceRevoked,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NotFound(what) => Self::not_found(format!("there is no such {what}")),
            Rejection::NameNotFound { .. } => Self::not_found(rejection.to_string()),
            Rejection::Conflict(conflict) => conflict.into(),
            Rejection::Invalid { field, rule, value } => {
                Self::field(field, rule, Some(value.into()))
            }
            Rejection::TokenRefused(refusal) => Self::new(Kind::Forbidden, refusal.to_string()),
            Rejection::Refused(why) => Self::new(Kind::Forbidden, why),
        }
    }
}

impl From<Conflict> for Problem {
    fn from(conflict: Conflict) -> Self {
        let problem = |kind| Self::new(kind, conflict.to_string());
        match &conflict {
            Conflict::NameInUse(holder) => problem(Kind::NameTaken).about_device(*holder, None),
            Conflict::NamesInUse(_) => problem(Kind::NameTaken),
            Conflict::NotEnrolled { state: NotEnrolled::Revoked, .. } => {
                problem(Kind::DeviceRevoked)
            }
            Conflict::NotEnrolled {
                state: NotEnrolled::Pending | NotEnrolled::NeverEnrolled,
                ..
            }
            | Conflict::NothingToRevoke(_)
            | Conflict::NothingToRotate => problem(Kind::DeviceNotEnrolled),
            Conflict::ProjectExists(_) => problem(Kind::ProjectExists),
            Conflict::ProjectArchived(_) => problem(Kind::ProjectArchived),
            Conflict::TooManyProjects(_) => problem(Kind::LimitReached),
            Conflict::OperationAborted | Conflict::OperationFinished | Conflict::RunEnded => {
                problem(Kind::AlreadyEnded)
            }
            Conflict::FileErased => problem(Kind::Gone),
            Conflict::DeviceExists
            | Conflict::CannotBecomePending
            | Conflict::NotPending(_)
            | Conflict::ReplacesItself
            | Conflict::EnrollmentEnded
            | Conflict::TokenExists
            | Conflict::OperationExists
            | Conflict::DeadLetterTruncated
            | Conflict::DeadLetterNotFromDevice
            | Conflict::RequestIdUsed
            | Conflict::TooManyChanges => problem(Kind::Conflict),
        }
    }
}
