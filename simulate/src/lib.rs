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
mod api_client;
mod fleet;
mod enrollment;
mod outbox;
mod profile;
pub mod samples;

pub use chain::{Chain, Sealed};
pub use counters::{Counters, CounterSnapshot};
pub use api_client::{ApiClient, ApiError};
pub use fleet::{Fleet, FleetError, FleetOptions};
pub use enrollment::{Enrolled, EnrollmentRequest, credentials_body};
pub use profile::{Profile, UnknownProfile};
