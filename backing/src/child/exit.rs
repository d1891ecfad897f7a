//! The exit of a process: its code, or the signal that ended it.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended; `None` if its exit status is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub(super) Option<ExitStatus>);

impl Exit {
    /// Returns the signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.0.and_then(|status| status.signal())
    }

    /// Returns the exit code, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.0.and_then(|status| status.code())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(f, "{status}"),
            None => write!(f, "exit status unknown"),
        }
    }
}
