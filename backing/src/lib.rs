//! The backing services of muster as child processes: finds, starts, watches and stops
//! nats-server, PostgreSQL and InfluxDB.
//!
//! `muster up` runs on this crate, and so do the system tests and the tests of every store:
//! what they talk to is the real server. The crate knows nothing of the other muster crates.
//!
//! Each service owns one folder (`dir` in its options): its data, its secrets, its configuration
//! and its logs. A [`child::Child`] is one server process with its restart policy.
//!
//! Invariant: no server started here outlives the process that started it, however that ends.
//! Invariant: every server listens on the loopback interface unless its options name another.

pub mod child;
pub mod file_limit;
pub mod find;
pub mod influx;
pub mod nats;
pub mod ports;
pub mod postgres;
pub mod program;

mod files;
mod run_as;
