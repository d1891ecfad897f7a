//! A device's side of the conversation with the log: what to send next, when to send it again, and
//! what an ack or a welcome means.
//!
//! This module uses no network, clock or random numbers: the caller passes them, so that a
//! simulated server can exercise drops, restores and clones (`model.rs`). `crate::link` connects it
//! to the broker.
//!
//! **Trust**: an ack is not signed, so it can only confirm events that this device really recorded
//! (the hash proves it) and cause events to be sent again. Any other hint in it (a restored log, a
//! fork) only causes a hello, and the device acts only on the signed welcome.

mod conversation;
mod hello;
#[cfg(test)]
mod model;
mod pacer;

pub use conversation::{Effect, IgnoredWelcome, Outgoing, Session};
pub use hello::SentHello;
pub use pacer::{PUBLISH_WINDOW, Pacer};
