//! The operations and their runs: what was asked, and what became of it on each device.

mod explain;
mod fold;
mod table;

pub use explain::explain;
pub use fold::{Closed, Operation, Run, RunState};
pub use table::Operations;

/// The live tables: this one, and the one of runs with `_runs` behind.
pub const TABLE: &str = "operations_v1";

#[cfg(test)]
mod tests;
