//! The devices: one row for each, with its whole state in the log.

mod fold;
mod state;
mod table;

pub(crate) use fold::has_implausible_time;
pub use fold::{CannotApply, changed_device, is_replaced_by_next};
pub use state::Device;
pub(crate) use table::search_text;
pub use table::{Devices, needed};

/// Name of the live table.
pub const TABLE: &str = "devices_v5";

#[cfg(test)]
mod tests;
