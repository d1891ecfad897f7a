//! The backing services of muster as child processes: finds, starts, supervises and stops
//! nats-server, PostgreSQL and InfluxDB.
//!
//! `muster up`, the system tests and the tests of every store use this crate, and so always the
//! real servers. The crate depends on no other muster crate, except the
//! client of the metric store.
//!
//! Each service owns one folder (`dir` in its options) with its data, secrets, configuration and
//! logs. A [`child::Child`] is one server process with its restart policy.
//!
//! Invariant: no server started here outlives the process that started it, even after a crash.
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
