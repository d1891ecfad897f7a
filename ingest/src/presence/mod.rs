//! Presence: which devices are online, kept by one keeper under a lease.
//!
//! The keeper hears of every connection from the broker itself, whose advisories carry the tags of
//! the device's JWT (its name for itself proves nothing). It compares its list with the broker's
//! when it starts, and whenever it may have missed something. Only a change is an event.

mod advisories;
mod keeper;
mod table;

pub use keeper::{PresenceOptions, run};
