//! The operations and their runs: the requests, and the result on each device.

mod explain;
mod fold;
mod table;
mod uploads;

pub use explain::explain;
pub use fold::{Closed, Erased, Operation, Run, Stalled};
pub use table::Operations;

/// Name of the live table; the live table of runs has the suffix `_runs`, and that of uploads
/// `_uploads`.
pub const TABLE: &str = "operations_v2";

#[cfg(test)]
mod tests;
