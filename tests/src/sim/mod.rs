//! Simulated devices for tests: those of `muster-simulate`, with each step controlled by the test.

mod connection;
mod enroll;

pub use connection::SimDevice;
pub use enroll::{enroll, enroll_body, renew};
pub use muster_simulate::{Chain, Enrolled, EnrollmentRequest, Sealed};
