//! The newest value of each metric of each device, and the time of its last message: not events,
//! only in memory.
//!
//! The broker keeps batches for some days; each query process reads the last one of each device and
//! the newest ones of all devices at its start ([`history`]), and follows new ones ([`follow`]).
//! Nothing here is persisted.

pub mod follow;
pub mod history;
mod series;
mod store;
mod summary;

pub use series::LatestPoint;
pub use store::{LatestMetrics, MeasuredDevices};

#[cfg(test)]
mod tests;
