//! Uploads: files that were pulled from devices; lists, and the files themselves.

pub(super) mod content;
pub(super) mod download;
pub(super) mod list;
mod range;
mod stored;
mod view;
