//! Signed events: from JetStream into the event log.
//!
//! One lease holder for each partition. Signed events are appended in the device's own order; a
//! message that cannot be attributed becomes a dead letter, moves no watermark, and blocks no device.

mod acks;
mod announce;
mod devices;
mod validation;
mod partitions;
mod worker;

pub use validation::{InboundMessage, Cause};
pub use partitions::run;
