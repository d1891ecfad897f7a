//! Signed events: from JetStream into the event log.
//!
//! One lease holder for each partition. Signed events are appended in the device's own order; a
//! message that cannot be attributed becomes a dead letter, moves no watermark, and blocks no device.

mod acks;
mod announce;
mod devices;
mod partitions;
mod validation;
mod worker;

pub use partitions::run;
pub use validation::{Cause, InboundMessage};
