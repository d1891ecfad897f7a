//! Signed events: from JetStream into the event log.
//!
//! One lease-holder a partition. What a device has signed is appended in its own order; a message
//! that cannot be attributed becomes a dead letter, moves no watermark, and blocks nobody.

mod acks;
mod announce;
mod devices;
mod intake;
mod partitions;
mod worker;

pub use intake::{Arrival, Cause};
pub use partitions::run;
