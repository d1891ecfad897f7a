//! The newest metrics of each device, and when it was last heard: not events, only memory.
//!
//! The broker keeps the last batch of each device and group; each query process reads those at its
//! start and follows from there ([`follow`]). Nothing here is written anywhere.

pub mod follow;
mod store;
mod summary;

pub use store::{LatestGroup, LatestMetrics};
pub use summary::MetricsSummary;

#[cfg(test)]
mod tests;
