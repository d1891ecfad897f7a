//! A simulated device: real keys, real enrollment, real broker, events kept in memory.

mod chain;
mod connection;
mod enroll;

pub use chain::{Chain, Sealed};
pub use connection::SimDevice;
pub use enroll::{Enrolled, Joining, enroll, enroll_body, renew};
