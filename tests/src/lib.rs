//! Building blocks of the system tests and the benchmarks: the system as processes, an API client,
//! simulated devices that implement the real protocol.
//!
//! No part of the product is faked: servers are real, and a simulated device seals, connects and
//! resends as the protocol requires. It keeps its events only in memory.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a broken test setup shall stop the test"
)]

pub mod agent;
pub mod api;
pub mod backup;
pub mod binaries;
pub mod bucket;
pub mod fleet;
pub mod in_process_agent;
pub mod network;
pub mod robot;
pub mod sim;
pub mod socket;
pub mod system;
pub mod text;
pub mod wait;

pub use api::Api;
pub use in_process_agent::InProcessAgent;
pub use robot::Robot;
pub use sim::SimDevice;
pub use system::System;
