//! The sessions: shells and connections, who opened them, who is attached, how they ended.

mod fold;
mod table;

pub use fold::{Session, SessionState};
pub use table::Sessions;

/// The live table, and with `_pieces` behind, that of the pieces of recordings: a long one has many.
pub const TABLE: &str = "sessions_v2";
