//! The deciders: whether a command is allowed in a state, and which events follow. Pure,
//! synchronous, total.
//!
//! No clock, no I/O, no randomness: they are arguments of a decision. Each aggregate has a state
//! that is folded from its stream, and commands that are decided into events or a [`Rejection`].

pub mod api_token;
mod changes;
pub mod device;
pub mod enrollment_token;
pub mod kinds;
pub mod name;
pub mod operation;
pub mod project;
mod rejection;
pub mod run;

use muster_schemas::Event;

pub use changes::Changes;
pub use rejection::{Conflict, NotEnrolled, Rejection, TokenRefusal};

/// The result of a decision.
pub type Decision = Result<Vec<Event>, Rejection>;

/// An aggregate: a state that is folded from events and decides commands.
pub trait Decider: Clone + Default + Send + Sync + 'static {
    /// Commands of the aggregate.
    type Command;

    /// Decides a command.
    ///
    /// # Errors
    /// When the command is rejected.
    fn decide(&self, command: Self::Command) -> Decision;

    /// Returns the state after an event. Events that do not concern the aggregate change nothing.
    #[must_use]
    fn evolve(self, event: &Event) -> Self;

    /// Whether the state is too large to be kept in memory between requests.
    fn is_large(&self) -> bool {
        false
    }

    /// Returns the state after the events of a stream.
    #[must_use]
    fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        events.into_iter().fold(Self::default(), Self::evolve)
    }
}

#[cfg(test)]
mod tests;
