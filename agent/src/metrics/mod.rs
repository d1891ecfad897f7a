//! The agent's metrics: one small collector per Telegraf plugin, which reads `/proc` and `/sys`.
//!
//! Measurement, tag and field names, units and formulas are Telegraf's, so that dashboards for
//! Telegraf work. Every collector reads below a root folder, so that tests can use fixture trees.
//! The caller timestamps, batches and sends.
//!
//! **Cost** (release build, CPU time per round, measured by `examples/collector_cost.rs`):
//! `processes` 8 µs per process, each other group 4 to 50 µs; all together 0.75 ms with 75
//! processes and 2.8 ms with 305, of the 20 ms that the whole agent may use.
//!
//! **Failure**: a collector whose file is missing, inaccessible or malformed yields nothing in that
//! round; the first of consecutive failures is logged, and so is the recovery. Collectors do not
//! panic.

mod battery;
mod collect;
mod collectors;
mod cpu;
mod disk;
mod diskio;
mod group;
mod mem;
mod net;
mod own;
mod processes;
mod source;
mod swap;
mod system;
mod temp;
#[cfg(test)]
mod tests;
mod value;
mod wireless;

pub use collectors::Collectors;
pub use group::{Group, GroupSet, UnknownGroup};
pub use own::AgentCounters;
pub use source::CollectError;
pub(crate) use source::Files;
pub(crate) use system::cpus_online;
