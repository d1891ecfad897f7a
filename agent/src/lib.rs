//! The device side of muster: records what happens, measures, and does what it is told by the
//! project that it pinned.

pub mod inventory;
pub mod metrics;
