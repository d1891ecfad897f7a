//! The sessions: shells and connections, who opened them, who is attached, how they ended.

mod fold;
mod table;

pub use fold::{Session, SessionState};
pub use table::Sessions;

/// The live table.
pub const TABLE: &str = "sessions_v1";
