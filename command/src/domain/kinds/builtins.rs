//! Operations that the agent performs itself.

use super::rules::{Kind, invalid};
use crate::domain::Rejection;

/// An operation without parameters: restart of the agent or the machine, diagnostics.
pub(super) struct Plain;

impl Kind for Plain {}

/// A change of the agent's log level.
pub(super) struct LogLevel<'a>(pub(super) &'a str);

impl Kind for LogLevel<'_> {
    fn check(&self) -> Result<(), Rejection> {
        if ["error", "warn", "info", "debug", "trace"].contains(&self.0) {
            return Ok(());
        }
        Err(invalid("action.level", "must be error, warn, info, debug or trace", self.0))
    }
}
