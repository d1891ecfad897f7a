//! Presence: which devices are online, tracked by one process under a lease.
//!
//! The tracker learns of every connection from the broker itself, whose advisories have the tags of
//! the device's JWT (the client's own name proves nothing). It compares its table with the broker's
//! list when it starts, whenever it may have missed an advisory, and every few seconds, because only
//! the list shows silent devices. Only a change is an event.

mod advisories;
mod connection;
mod connections;
mod record;
mod sweep;
mod table;
mod tracker;

pub use advisories::Advisory;
pub use connection::Connection;
pub use connections::ServerList;
pub use tracker::{PresenceOptions, run};
