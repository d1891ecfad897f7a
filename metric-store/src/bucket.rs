//! The bucket of the metric store that lines are written to, and the names of projects' own buckets.

use std::sync::Arc;

use muster_schemas::{ProjectId, Retention};

/// The prefix of the names of all projects' own buckets.
pub const OWN_POLICY: &str = "project-";

/// The name of a project's own bucket in the metric store: a retention policy of the database. In
/// InfluxDB 2.x that is a bucket, [`own_bucket`], mapped to this name for InfluxQL.
#[must_use]
pub fn own_policy(project: &ProjectId) -> String {
    format!("{OWN_POLICY}{project}")
}

/// The bucket that is mapped to a policy in InfluxDB 2.x. Not `DATABASE/POLICY`: 2.x treats that as
/// a second default policy of the database, and then refuses requests without a policy.
#[must_use]
pub fn own_bucket(database: &str, policy: &str) -> String {
    format!("{database}-{policy}")
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_with_its_own_retention_has_its_own_bucket() {
        let project = "plant-7".parse::<ProjectId>().unwrap();
        assert_eq!(own_policy(&project), "project-plant-7");
        assert_eq!(own_bucket("muster", &own_policy(&project)), "muster-project-plant-7");
    }
}
