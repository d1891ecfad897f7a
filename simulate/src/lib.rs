//! Simulated devices: real keys, real enrollment, one TLS connection each, signed events, metric
//! batches, hellos, resends. For `muster simulate`, for benchmarks, for tests.
//!
//! They have no disk and no machine: events are in memory until the log has them, and metrics are
//! generated. They use only the public protocol.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by it"))]

mod api_client;
mod chain;
mod connection;
mod counters;
mod device;
mod enrollment;
mod fleet;
mod fleet_context;
mod outbox;
mod profile;
pub mod samples;

pub use api_client::{ApiClient, ApiError};
pub use chain::{Chain, Sealed};
pub use counters::{CounterSnapshot, Counters};
pub use enrollment::{Enrolled, EnrollmentRequest, credentials_body};
pub use fleet::{Fleet, FleetError, FleetOptions};
pub use profile::{Profile, UnknownProfile};
