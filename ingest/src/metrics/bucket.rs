//! The bucket of the metric store that lines are written to.

use std::sync::Arc;

use muster_schemas::retention::own_policy;
use muster_schemas::{ProjectId, Retention};

/// The bucket that lines are written to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum MetricBucket {
    /// The database itself: the bucket of the project `default`.
    #[default]
    Shared,
    /// A project's own bucket.
    Own {
        /// The name of its retention policy, by [`own_policy`].
        policy: Arc<str>,
        /// The time after which the store deletes points.
        retention: Retention,
    },
}

impl MetricBucket {
    /// A project's own bucket.
    #[must_use]
    pub fn own(project: &ProjectId, retention: Retention) -> Self {
        Self::Own { policy: own_policy(project).into(), retention }
    }

    /// The retention; the store's own if the project has none.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        match self {
            Self::Shared => Retention::Default,
            Self::Own { retention, .. } => *retention,
        }
    }
}
