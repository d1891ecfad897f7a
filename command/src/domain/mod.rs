//! The deciders: given what is, may it be done, and which facts follow? Pure, synchronous, total.
//!
//! No clock, no I/O, no randomness: whatever a decision needs is handed in. Each aggregate has a
//! state that is folded from its stream, and commands that are decided into events or a
//! [`Rejection`].

pub mod api_token;
pub mod device;
pub mod enrollment_token;
pub mod name;
pub mod operation;
pub mod project;
pub mod run;

use muster_schemas::Event;

/// A business "no". Where it becomes an HTTP status is not known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The aggregate does not exist, or was deleted.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Nothing has this name.
    #[error("there is no {what} '{name}'")]
    Unnamed {
        /// What was looked for.
        what: &'static str,
        /// The name that was given.
        name: String,
    },
    /// What was asked for is taken, or already there.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for breaks a rule.
    #[error("{rule}")]
    Invalid {
        /// The field that breaks it.
        field: &'static str,
        /// The rule.
        rule: String,
        /// The value, as text.
        value: String,
    },
    /// A token does not allow it.
    #[error("{0}")]
    TokenRefused(&'static str),
    /// An operator does not allow it.
    #[error("{0}")]
    Refused(String),
}

/// What a decision gives.
pub type Decision = Result<Vec<Event>, Rejection>;

/// An aggregate: a state that events make, and commands that its state decides.
pub trait Decider: Default {
    /// What can be asked of it.
    type Command;

    /// Decides a command.
    ///
    /// # Errors
    /// When the command is refused.
    fn decide(&self, command: Self::Command) -> Decision;

    /// The state after an event. Events that do not concern it change nothing.
    #[must_use]
    fn evolve(self, event: &Event) -> Self;

    /// The state that a stream leads to.
    #[must_use]
    fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        events.into_iter().fold(Self::default(), Self::evolve)
    }
}

#[cfg(test)]
mod tests;
