//! The interface of a collector.

use muster_schemas::metrics::Point;

use super::source::{CollectError, Files};

/// A collector of one group.
pub(super) trait Collect: Send {
    /// Adds this round's points. On an error its points are removed again.
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError>;
}
