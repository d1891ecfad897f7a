//! The PostgreSQL event log: append, read, follow, project.
//!
//! Positions are gapless and commit order is position order, so a reader needs only `position >
//! checkpoint`. This crate depends on the events ([`muster_schemas`]), but makes no decisions about
//! devices except those that the append transaction itself must enforce: stream versions, device
//! keys and epochs.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "small numbers of the tests"))]

mod access;
mod append;
mod appender;
mod authority;
mod authority_keys;
mod connect;
mod database_roles;
mod dead_letter_quota;
mod dead_letters;
mod device_effects;
mod device_keys;
mod error;
mod examine;
mod failure;
mod follow;
mod integers;
mod leases;
mod log;
mod log_options;
pub mod merkle;
mod migrations;
mod partitions;
mod presence;
pub mod projection;
mod read;
mod recent;
mod stored_event;
pub mod tiles;
pub mod traces;

pub use access::AccessStamp;
pub use append::{
    Append, AppendError, Appended, Batch, Expected, NewEvent, OffsetMove, StreamAppend,
};
pub use authority::{AuthorityAudit, audit_authority};
pub use connect::{ConnectOptions, Connection, Stores};
pub use database_roles::{CreateUsersOutcome, DatabaseRole, NewDatabaseUser};
pub use dead_letters::{DeadLetter, DeadLetterSource, NewDeadLetter};
pub use device_keys::{DeviceAccess, DeviceEpoch, DeviceKey};
pub use error::{ErrorContext, StoreError};
pub use examine::{Examination, ReadModel, examine};
pub use failure::{Cause, Failure, FailureWatch};
pub use follow::Follower;
pub use integers::as_i64;
pub use leases::{Lease, Offset, events_reader, incarnation};
pub use log::{EventLog, Head};
pub use log_options::LogOptions;
pub use presence::PRESENCE_LEASE;
pub use read::ReadFilter;
pub use stored_event::StoredEvent;
