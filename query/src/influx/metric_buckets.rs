//! The buckets that may hold the points of one project, as sources of a query. Pure.

use muster_metric_store::identifier;

/// The buckets that may hold the points of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricBuckets {
    /// The project's own retention policy, if it exists.
    pub(super) own: Option<String>,
    /// Database of an additional `SHOW` query: 2.x reads one bucket in each query, 1.x all policies
    /// of a database.
    pub(super) own_database: Option<String>,
    /// Whether the names of all fields in the database itself may be shown. Not to a project that
    /// has, or will have, a bucket of its own: they are names of other projects.
    pub(super) are_names_shared: bool,
    /// Whether only the project's own bucket is queried.
    pub(super) is_own_only: bool,
}

impl MetricBuckets {
    /// Formats the `FROM` of a measurement in all buckets. InfluxQL merges series with the same
    /// name and the same tags.
    pub(super) fn sources(&self, measurement: &str) -> String {
        let name = identifier(measurement);
        match &self.own {
            Some(policy) if self.is_own_only => format!("{}.{name}", identifier(policy)),
            Some(policy) => format!("{name}, {}.{name}", identifier(policy)),
            None => name,
        }
    }

    /// Returns the project's own bucket alone; `None` when there is none. InfluxQL drops text if
    /// another bucket has numbers in a field of the same name, and that may be the field of another
    /// project.
    #[must_use]
    pub fn own_only(&self) -> Option<Self> {
        self.own.is_some().then(|| Self { is_own_only: true, ..self.clone() })
    }

    /// Formats the `FROM` of a query of a measurement's fields; `None` when no field may be shown.
    pub(super) fn field_sources(&self, measurement: &str) -> Option<String> {
        let name = identifier(measurement);
        match &self.own {
            _ if self.are_names_shared => Some(self.sources(measurement)),
            Some(policy) => Some(format!("{}.{name}", identifier(policy))),
            None => None,
        }
    }

    /// Returns the databases for `SHOW` queries.
    pub(super) fn databases<'a>(&'a self, shared: &'a str) -> impl Iterator<Item = &'a str> {
        std::iter::once(shared).chain(self.own_database.as_deref())
    }
}
