//! Metrics of the applications on this machine: InfluxDB's line protocol and JSON, by UDP on the
//! loopback and by sockets in the data folder.
//!
//! What comes in joins the agent's own batches; nothing here sends, samples or knows the broker.
//!
//! **Anybody on this machine may write**, so nothing is believed: every point is held to limits,
//! what is beyond them is dropped and counted by [`Cause`], and the memory that is used is bounded
//! whatever comes. What the servers say of a device (`host`, `project` …) is not taken from a point.

mod gate;
mod intake;
mod listen;
mod point;
mod read;
mod sockets;
#[cfg(test)]
mod tests;

pub use gate::Quota;
pub use intake::{Counts, Intake};
pub(crate) use listen::listen_locally;
pub use point::Cause;
pub use read::{Claim, Format, read};
pub(crate) use sockets::{Doors, DoorsWanted};
