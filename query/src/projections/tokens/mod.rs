//! The tokens: enrollment tokens and API tokens, who made them and how they were used.
//!
//! Invariant: nothing of a secret is here, not even its hash.

mod fold;
mod table;

pub use fold::{Token, TokenKind};
pub use table::Tokens;

/// The live table.
pub const TABLE: &str = "tokens_v1";

#[cfg(test)]
mod tests;
