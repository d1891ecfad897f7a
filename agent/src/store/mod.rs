//! What the agent keeps on disk: one folder, one redb file, one process.
//!
//! Knows where things are and how they are committed, not what they mean: events are
//! `crate::outbox`'s, batches are `crate::report`'s, keys are `crate::identity`'s.
//!
//! **Format**: the table `meta` names the format's version. A newer one than [`FORMAT`] is
//! refused, so that an older agent never damages what a newer one wrote.

mod database;
mod error;
mod folder;
#[cfg(test)]
mod tests;

pub(crate) use database::{
    BACKLOG, EVENTS, MARKS, OPENED, RUN_INPUTS, RUNS, SESSIONS, get, put, remove,
};
pub use database::{FORMAT, Store, key};
pub use error::StoreError;
pub(crate) use folder::free_bytes;
pub use folder::{Folder, write_private};
