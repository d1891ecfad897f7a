//! The sessions: shells and connections, who opened them, who is attached, how they ended.

mod fold;
mod table;

pub use fold::Session;
pub use table::Sessions;

/// Name of the live table; with the suffix `_pieces`, that of the pieces of recordings: a long one
/// has many.
pub const TABLE: &str = "sessions_v2";
