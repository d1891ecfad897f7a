//! Metrics of the applications on this machine: InfluxDB's line protocol and JSON, over UDP on the
//! loopback and over sockets in the data folder.
//!
//! Accepted points join the agent's own batches; this module neither sends nor samples.
//!
//! **Any process on this machine can write**, so the data is untrusted: every point is checked
//! against limits, points beyond them are dropped and counted by [`Cause`], and memory usage is
//! bounded for any input. Tags that the servers set for a device (`host`, `project` …) are removed
//! from a point.

mod quota;
mod queue;
mod listen;
mod point;
mod parse;
mod sockets;
#[cfg(test)]
mod tests;

pub use quota::Quota;
pub use queue::{Counts, PointQueue};
pub(crate) use listen::listen_locally;
pub use point::Cause;
pub use parse::{WrittenPoint, Format, read};
pub(crate) use sockets::{Listeners, ListenerSettings};
