//! The device side of muster: records events, samples metrics, and executes the operations of the
//! project that it has pinned.

pub mod backoff;
pub mod channels;
pub mod clock;
pub mod doctor;
pub mod enroll;
mod files;
pub mod identity;
pub mod inventory;
pub mod link;
pub mod local;
pub mod metrics;
pub mod operations;
pub mod outbox;
pub mod report;
pub mod run;
pub mod session;
pub mod store;
pub mod subprocess;
pub mod trust;

pub use run::{Agent, AgentError, AgentOptions, Recorder, Status, run};
