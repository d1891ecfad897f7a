//! From JetStream into the event log and the metric store.
//!
//! It decides nothing: what a device has signed goes into the log, what it measured goes into the
//! time-series store, and what can do neither is kept as a dead letter with its cause. A message is
//! acknowledged only after that.

pub mod events;
pub mod metrics;
pub mod streams;
