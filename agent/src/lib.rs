//! The device side of muster: records events, samples metrics, and executes the operations of the
//! project that it has pinned.

pub mod backoff;
pub mod channels;
pub mod clock;
pub mod doctor;
pub mod enroll;
mod error_chain;
mod files;
pub mod identity;
pub mod inventory;
pub mod link;
pub mod local;
pub mod metrics;
pub mod operations;
pub mod outbox;
pub mod policy;
pub mod report;
pub mod run;
mod run_as;
pub mod session;
pub mod store;
pub mod subprocess;
pub mod trust;

pub use run::{Agent, AgentError, AgentOptions, Recorder, Status, run, run_helper};
