//! Exit codes for scripts, and the format of errors.

use std::process::ExitCode;

use muster_client::{NoContext, RequestError};
use muster_server::InvalidOption;

/// Invalid use of the command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// The requested object does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(pub(crate) String);

/// Some of several items failed; each failure was already reported.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {total} failed")]
pub(crate) struct PartialFailure {
    pub(crate) failed: usize,
    pub(crate) total: usize,
    /// The exit code, if all items failed for the same reason.
    pub(crate) code: u8,
}

/// Exit code of a program on a device; its messages were already printed.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Exited(pub(crate) u8);

/// Exit code when the requested object does not exist.
pub(crate) const NOT_FOUND: u8 = 3;

/// Type of the problem for an offline device.
pub(crate) const OFFLINE: &str = "device-offline";

/// Returns the exit code: 1 failure, 2 usage error (as clap), 3 not found, 4 permission denied,
/// 5 unreachable or unavailable, 6 conflict with the current state.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() || error.is::<InvalidOption>() {
        return 2;
    }
    if error.is::<NotFound>() || error.is::<NoContext>() {
        return NOT_FOUND;
    }
    if let Some(Exited(code)) = error.downcast_ref::<Exited>() {
        return *code;
    }
    if let Some(partly) = error.downcast_ref::<PartialFailure>() {
        return partly.code;
    }
    match error.downcast_ref::<RequestError>() {
        Some(RequestError::Unreachable { .. }) => 5,
        Some(RequestError::Problem { kind, .. }) if kind == OFFLINE => 5,
        Some(RequestError::Problem { status, .. }) => match status {
            404 | 410 => NOT_FOUND,
            401 | 403 => 4,
            502..=504 | 429 => 5,
            409 | 412 => 6,
            _ => 1,
        },
        None => 1,
    }
}

/// Whether the failure is temporary.
pub(crate) fn is_temporary(error: &anyhow::Error) -> bool {
    code(error) == 5
}

/// Whether the device is offline.
pub(crate) fn is_offline(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<RequestError>(),
        Some(RequestError::Problem { kind, .. }) if kind == OFFLINE
    )
}

/// Prints the error and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if !error.is::<Exited>() {
        crate::output::note(format!("error: {error:#}"));
    }
    ExitCode::from(code(error))
}
