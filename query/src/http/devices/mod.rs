//! `/devices`: lists with filters, sorting and cursors; one device; both also as point-in-time
//! queries.

mod at_position;
mod condition;
mod filter;
pub(crate) mod get;
mod item;
pub(crate) mod list;
pub(crate) mod names;
mod renames;
mod resolve;
mod select;
mod sort;
pub(crate) mod stream;
mod view;
mod walk;

pub(crate) use resolve::resolve;
pub(crate) use select::select_devices;
