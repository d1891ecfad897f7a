//! The tokens: enrollment tokens and API tokens, who created them and how they were used.
//!
//! Invariant: no part of a secret is here, not even its hash.

mod fold;
mod table;

pub use fold::{Token, TokenKind};
pub(crate) use table::TYPES;
pub use table::Tokens;

/// Name of the live table.
pub const TABLE: &str = "tokens_v2";

#[cfg(test)]
mod tests;
