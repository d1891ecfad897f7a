//! `/events`: the log, in pages and as a live stream.

pub(crate) mod list;
pub(crate) mod stream;
mod types;
mod view;
