//! The registry of the kinds of operations: limits and validation of each. Pure.
//!
//! A kind has a module here that implements [`Kind`] (`rules`), and an arm in [`of`]. How a request of the
//! API becomes an action is in `http::operations`.

mod builtins;
mod exec;
mod rules;
mod upload;

use muster_schemas::events::Action;

use self::builtins::{LogLevel, Plain};
pub(super) use self::rules::invalid;
pub use self::rules::{Kind, Timeouts};

#[cfg(test)]
pub(super) use self::exec::MAX_ARGUMENTS;

/// Returns the rules of an action's kind.
#[must_use]
pub fn of(action: &Action) -> Box<dyn Kind + '_> {
    match action {
        Action::Exec(exec) => Box::new(exec),
        Action::Upload(upload) => Box::new(upload),
        Action::LogLevel { level, .. } => Box::new(LogLevel(level)),
        Action::RestartAgent | Action::Reboot | Action::Diagnostics => Box::new(Plain),
    }
}
