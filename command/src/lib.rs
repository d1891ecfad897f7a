//! The write side: decides what people and devices ask for, appends it, and tells the device.
//!
//! It alone holds the account signing key, the operation keys and the CA. It never writes a read
//! model and never reads one: what it must know, it folds from the streams that it is about to
//! append to.

pub mod channels;
pub mod dispatch;
pub mod domain;
pub mod http;
pub mod keys;
pub mod link;
pub mod service;
pub mod uploads;

use muster_eventlog::projection::Runner;
use muster_eventlog::{EventLog, StoreError};

/// The projections whose tables the write side writes.
pub const PROJECTIONS: [&str; 2] = [dispatch::todo::NAME, uploads::NAME];

/// Makes the tables of its lists, for a role that may make none itself.
///
/// # Errors
/// When they cannot be made.
pub async fn make_tables(log: &EventLog) -> Result<(), StoreError> {
    Runner::open(log.clone(), dispatch::todo::Todo).await?;
    Runner::open(log.clone(), uploads::files()).await?;
    Ok(())
}
