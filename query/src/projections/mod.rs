//! The projections: pure folds of the log (`fold.rs`), each with the table that it fills
//! (`table.rs`).
//!
//! Invariant: a row holds values from the log alone, no clock and no randomness, so that live and
//! rebuilt tables are equal row for row. What a projection's table is called is handed in: a
//! rebuild fills its own beside the live one.

pub mod devices;
pub mod operations;
pub mod projects;
pub mod sessions;
pub mod timeline;
pub mod tokens;

/// PostgreSQL's text cannot hold a NUL; what devices report may.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// PostgreSQL's integers have a sign; positions and versions of the log fit 63 bits.
pub(crate) fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
