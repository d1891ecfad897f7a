//! The device's clocks: the wall clock, which may be wrong, and the monotonic clock, which is not.
//!
//! The agent sets no clock. It keeps the server's time as an [`Anchor`], so that a wrong wall
//! clock, or one that is set while the agent runs, does not falsify metrics.

mod moment;
mod server;

pub use moment::{Anchor, Moment};
pub(crate) use server::ServerClock;
