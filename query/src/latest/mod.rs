//! The newest metrics of each device, and the time of its last message: not events, only in memory.
//!
//! The broker keeps the last batch of each device and group; each query process reads those at its
//! start and follows new ones ([`follow`]). Nothing here is persisted.

pub mod follow;
mod store;
mod summary;

pub use store::{LatestGroup, LatestMetrics};

#[cfg(test)]
mod tests;
