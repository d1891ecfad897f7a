//! The device side of muster: records what happens, measures, and does what it is told by the
//! project that it pinned.

pub mod backoff;
pub mod clock;
pub mod inventory;
pub mod metrics;
pub mod outbox;
pub mod session;
pub mod store;
