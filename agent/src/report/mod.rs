//! Metrics on their way: sampled, stamped by the best clock there is, sent, or kept until they
//! can be.
//!
//! Measures nothing itself: that is `crate::metrics`.

mod backfill;
mod backlog;
mod rhythm;
mod sampler;
#[cfg(test)]
mod tests;

pub(crate) use backfill::send_backlog;
pub use backlog::{Backlog, BacklogView, Queued};
pub(crate) use sampler::sample_and_send;
