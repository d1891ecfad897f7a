//! Simulated devices: real keys, real enrollment, a TLS connection each, signed events, metric
//! batches, hellos, resends. For `muster simulate`, for benchmarks, for tests.
//!
//! What they do not have is a disk and a machine: events are kept in memory until the log has
//! them, and what they measure is made up. They know nothing of servers but the published language.

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
pub use counters::{Counters, Figures};
pub use door::{Door, DoorError};
pub use fleet::{Fleet, FleetError, FleetOptions};
pub use joining::{Enrolled, Joining, credentials_body};
pub use profile::{Profile, UnknownProfile};
