//! The agent's data on disk: one folder, one redb file, one process.
//!
//! This module manages tables and transactions, not their content: events belong to
//! `crate::outbox`, batches to `crate::report`, keys to `crate::identity`.
//!
//! **Format**: the table `meta` contains the format version. A version newer than [`FORMAT`] is
//! refused, so that an older agent never damages data of a newer one.

mod database;
mod error;
mod folder;
#[cfg(test)]
mod tests;

pub(crate) use database::{
    AGE_ENTRIES, BACKLOG, EVENTS, OPENED, RUN_INPUTS, RUNS, SESSIONS, event_key, event_of_key, get,
    put, remove,
};
pub use database::{FORMAT, Store, key};
pub use error::StoreError;
pub use folder::Folder;
pub(crate) use folder::free_bytes;
