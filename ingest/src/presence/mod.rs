//! Presence: which devices are online, kept by one keeper under a lease.
//!
//! The keeper hears of every connection from the broker itself, whose advisories carry the tags of
//! the device's JWT (its name for itself proves nothing). It compares its table with the broker's
//! list when it starts, whenever it may have missed something, and every few seconds, because only
//! the list tells who has fallen silent. Only a change is an event.

mod advisories;
mod connections;
mod keeper;
mod record;
mod sweep;
mod table;

pub use advisories::Advisory;
pub use connections::ServerList;
pub use keeper::{PresenceOptions, run};
pub use table::Connection;
