//! `/events`: the log, in pages and live.

pub(crate) mod list;
pub(crate) mod stream;
mod types;
mod view;
