//! The projections: pure folds of the log (`fold.rs`), each with the table that it fills
//! (`table.rs`).
//!
//! Invariant: a row has only values from the log, no clock and no randomness, so that live and
//! rebuilt tables are equal row for row. The name of a projection's table is a parameter: a rebuild
//! fills a table of its own while the live one is in use.

pub mod devices;
pub mod operations;
pub mod projects;
pub mod sessions;
pub mod timeline;
pub mod tokens;

use muster_eventlog::StoreError;
use muster_eventlog::projection::Table;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Encodes a folded state as the JSON text of a column.
pub(crate) fn encode<T: Serialize>(table: &Table, state: &T) -> Result<String, StoreError> {
    serde_json::to_string(state).map_err(corrupt(table))
}

/// Decodes the state in a row's column.
pub(crate) fn decode<T: DeserializeOwned>(table: &Table, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(corrupt(table))
}

fn corrupt(table: &Table) -> impl FnOnce(serde_json::Error) -> StoreError {
    move |error| StoreError::Corrupt(format!("{}: {error}", table.name()))
}

/// Replaces NUL, which PostgreSQL's text cannot contain; devices may report it.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
