//! Simulated devices: real keys, real enrollment, one TLS connection each, signed events, metric
//! batches, hellos, resends. For `muster simulate`, for benchmarks, for tests.
//!
//! They have no disk and no machine: events are in memory until the log has them, and metrics are
//! generated. They use only the public protocol.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by it"))]

mod chain;
mod connection;
mod counters;
mod device;
mod door;
mod fleet;
mod joining;
mod outbox;
mod profile;
pub mod samples;

pub use chain::{Chain, Sealed};
pub use counters::{Counters, CounterSnapshot};
pub use door::{ApiClient, ApiError};
pub use fleet::{Fleet, FleetError, FleetOptions};
pub use joining::{Enrolled, EnrollmentRequest, credentials_body};
pub use profile::{Profile, UnknownProfile};
