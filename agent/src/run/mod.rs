//! The running agent: its parts, and their shared state.
//!
//! Each part is one loop; together they are one future on one thread. They share `Shared`; no lock
//! on it is held across an await.

mod agent;
mod counters;
mod helper;
mod inventory;
mod pruning;
mod settings;
mod shared;
mod status;
mod watchdog;

pub use agent::{Agent, AgentError, AgentOptions, Recorder, run};
pub use helper::run_helper;
pub use settings::Settings;
#[cfg(test)]
pub(crate) use settings::read as read_settings;
pub(crate) use shared::Shared;
pub use status::{BacklogStatus, LocalStatus, OutboxStatus, Status, query_status, socket_path};
