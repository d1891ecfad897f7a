//! Operations and their runs: lists, summaries, output.

pub(super) mod get;
pub(super) mod output;
pub(super) mod runs;
mod view;

pub(crate) use view::requested_target;
