//! Reporting of metrics: sampled, timestamped with the best available clock, sent, or kept until
//! they can be sent.
//!
//! `crate::metrics` takes the measurements.

mod backfill;
mod backlog;
mod in_flight;
mod sampler;
mod schedule;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use backfill::send_backlog;
pub use backlog::{Backlog, BacklogView, Queued};
pub(crate) use sampler::Sampler;
pub use settings::SampleSettings;
