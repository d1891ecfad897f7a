//! The running agent: its parts, put together.
//!
//! Each part is one loop; together they are one future on one thread. No lock is held across an
//! await.

mod agent;
mod diagnostics;
mod helper_main;
mod pruning;
mod watchdog;

pub use agent::{Agent, AgentError, AgentOptions, run};
pub use helper_main::run_helper;
