//! The device side of muster: records events, samples metrics, and executes the operations of the
//! project that it has pinned.

#![cfg_attr(test, allow(clippy::too_many_lines, reason = "a test is a sequence of steps"))]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "small numbers of the tests"
    )
)]

pub mod backoff;
pub mod channels;
pub mod clock;
mod config;
mod connection;
pub mod doctor;
pub mod enroll;
mod files;
pub mod identity;
pub mod inventory;
pub mod link;
pub mod local;
pub mod log_level;
pub mod metrics;
pub mod operations;
pub mod outbox;
pub mod policy;
pub mod report;
pub mod run;
mod run_as;
pub mod session;
pub mod status;
pub mod store;
pub mod subprocess;
pub mod trust;

pub use outbox::Recorder;
pub use run::{Agent, AgentError, AgentOptions, run, run_helper};
pub use status::Status;
