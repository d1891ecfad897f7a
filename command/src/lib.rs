//! The write side: decides requests of clients and devices, appends events, and notifies devices.
//!
//! Only this crate has the account signing key, the operation keys and the CA. It folds the
//! state for a decision from the streams that it appends to, and reads no read model except its own
//! lists of open runs and of files.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "small numbers of the tests"))]

pub mod channels;
mod clock;
mod device_keys;
pub mod dispatch;
pub mod domain;
mod error;
mod executor;
pub mod hello;
pub mod http;
pub mod keys;
pub mod link;
mod loaded_states;
pub mod outputs;
mod request;
pub mod service;
pub mod uploads;

use async_recursion::async_recursion as boxed;
use muster_eventlog::projection::Runner;
use muster_eventlog::{EventLog, StoreError};

pub use error::CommandError;
pub use request::{Request, Written};

/// Projections whose tables the write side writes.
pub const PROJECTIONS: [&str; 2] = [dispatch::queue_projection::NAME, uploads::NAME];

/// Creates the tables of the write side's projections, for a role that may not create tables
/// itself.
///
/// # Errors
/// When they cannot be created.
#[boxed]
pub async fn create_tables(log: &EventLog) -> Result<(), StoreError> {
    Runner::open(log.clone(), dispatch::queue_projection::QueueProjection).await?;
    Runner::open(log.clone(), uploads::files()).await?;
    Ok(())
}
