//! A device's side of its conversation with the log: what to send next, when to send it again,
//! and what an ack or a welcome means.
//!
//! No network, no clock, no chance: all of them are handed in, so that a simulated server can put
//! it through drops, restores and clones (`model.rs`). `crate::link` carries it out.
//!
//! **What is believed**: an ack is not signed, so all that it can do by itself is confirm what
//! this device really recorded (the hash says so) and have events sent again. Whatever else it
//! hints at (a log that was restored, a fork) is only a reason to say hello, and only the signed
//! answer is acted on.

mod hello;
#[cfg(test)]
mod model;
mod pacer;
mod talk;

pub use hello::Asked;
pub use pacer::{PUBLISH_WINDOW, Pacer};
pub use talk::{Effect, Ignored, Outgoing, Session};
