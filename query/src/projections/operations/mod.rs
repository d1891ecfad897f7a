//! The operations and their runs: what was asked, and what became of it on each device.

mod explain;
mod fold;
mod table;
mod uploads;

pub use explain::explain;
pub use fold::{Closed, Erased, Operation, Run, RunState, Stalled};
pub use table::Operations;

/// The live tables: this one, the one of runs with `_runs` behind, and the one of those runs that
/// bring a file, with `_uploads` behind.
pub const TABLE: &str = "operations_v1";

#[cfg(test)]
mod tests;
