//! `/events`: the log, in pages and as a live stream.

mod cloud_event;
mod data;
pub(crate) mod list;
mod reader;
mod resume;
pub(crate) mod schemas;
pub(crate) mod stream;
mod types;
mod view;
