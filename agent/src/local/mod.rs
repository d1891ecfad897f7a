//! Metrics of the applications on this machine: InfluxDB's line protocol and JSON, over UDP on the
//! loopback and over sockets in the data folder.
//!
//! Accepted points join the agent's own batches; this module neither sends nor samples.
//!
//! **Any process on this machine can write**, so the data is untrusted: every point is checked
//! against limits, points beyond them are dropped and counted by [`Cause`], and memory usage is
//! bounded for any input. Tags that the servers set for a device (`host`, `project` …) are removed
//! from a point.

mod listen;
mod parse;
mod point;
mod queue;
mod quota;
mod sockets;
#[cfg(test)]
mod tests;

pub(crate) use listen::LocalMetrics;
pub use parse::{Format, read};
pub use point::{Cause, WrittenPoint};
pub use queue::{Counts, PointQueue};
pub use quota::Quota;
pub(crate) use sockets::ListenerSettings;
