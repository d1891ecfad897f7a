//! Exit codes that scripts can use, and errors as a tired person reads them.

use std::process::ExitCode;

/// Why the server did not do what a command asked of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It said no.
    #[error("{detail}")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// The last part of the problem's type, such as `not-found`; empty when there is none.
        kind: String,
        /// The server's words.
        detail: String,
    },
    /// It cannot be reached.
    #[error("cannot reach {url}: {problem}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why not.
        problem: String,
    },
}

/// A command line that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misused(pub(crate) String);

/// What was asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(pub(crate) String);

/// Some of several things could not be done; each was reported already.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {of} failed")]
pub(crate) struct Partly {
    pub(crate) failed: usize,
    pub(crate) of: usize,
    /// The exit code, when they all failed for the same reason.
    pub(crate) code: u8,
}

/// The exit code of a program that ran elsewhere; what there was to say was said.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Exited(pub(crate) u8);

/// The exit code when what was asked for is not there.
pub(crate) const NOT_FOUND: u8 = 3;

/// The kind of problem when a device is offline.
pub(crate) const OFFLINE: &str = "device-offline";

/// 1 failed, 2 used wrongly (clap's), 3 not found, 4 not allowed, 5 unreachable or unavailable,
/// 6 in conflict with the present state.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Misused>() {
        return 2;
    }
    if error.is::<NotFound>() {
        return NOT_FOUND;
    }
    if let Some(Exited(code)) = error.downcast_ref::<Exited>() {
        return *code;
    }
    if let Some(partly) = error.downcast_ref::<Partly>() {
        return partly.code;
    }
    match error.downcast_ref::<Refused>() {
        Some(Refused::Unreachable { .. }) => 5,
        Some(Refused::Problem { kind, .. }) if kind == OFFLINE => 5,
        Some(Refused::Problem { status, .. }) => match status {
            404 | 410 => NOT_FOUND,
            401 | 403 => 4,
            502..=504 | 429 => 5,
            409 | 412 => 6,
            _ => 1,
        },
        None => 1,
    }
}

/// Does the failure pass by itself?
pub(crate) fn is_passing(error: &anyhow::Error) -> bool {
    code(error) == 5
}

/// Is the device offline?
pub(crate) fn is_offline(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<Refused>(),
        Some(Refused::Problem { kind, .. }) if kind == OFFLINE
    )
}

/// Tells the error, and answers the exit code for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if !error.is::<Exited>() {
        crate::output::note(format!("error: {error:#}"));
    }
    ExitCode::from(code(error))
}
