//! The buckets that may hold a project's points in InfluxDB: the project's own, and the database
//! itself, which is the bucket of the project `default` and of all points that projects sent before
//! they got buckets of their own. One query reads both and selects points by project and device.
//! Ingest creates the buckets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use muster_schemas::ProjectId;
use muster_schemas::retention::{own_bucket, own_policy};

use super::client::{InfluxClient, InfluxError};
use super::influxql::identifier;

/// Time for which the list of retention policies is cached.
const POLICIES_TTL: Duration = Duration::from_secs(5);

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

/// The retention policies of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policies {
    pub(super) names: BTreeSet<String>,
    /// Whether the store is an InfluxDB 2.x, in which a policy is a bucket.
    pub(super) are_buckets: bool,
}

/// The cached policies of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyCache(Arc<Mutex<Option<CachedPolicies>>>);

/// The policies, and the time at which they were read.
type CachedPolicies = (Instant, Arc<Policies>);

impl InfluxClient {
    /// Returns the buckets that may currently hold a project's points.
    ///
    /// # Errors
    /// See [`InfluxError`].
    pub async fn buckets(&self, project: &ProjectId) -> Result<MetricBuckets, InfluxError> {
        let own = own_policy(project);
        let policies = self.policies().await?;
        // A store without retention policies cannot separate projects.
        let are_names_shared =
            policies.names.is_empty() || *project == ProjectId::default_project();
        if !policies.names.contains(&own) {
            return Ok(MetricBuckets { are_names_shared, ..MetricBuckets::default() });
        }
        let database = &self.options.database;
        let own_database = policies.are_buckets.then(|| own_bucket(database, &own));
        Ok(MetricBuckets { own: Some(own), own_database, are_names_shared, is_own_only: false })
    }

    async fn policies(&self) -> Result<Arc<Policies>, InfluxError> {
        let lock = || self.policies.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = lock().clone();
        if let Some((when, policies)) = cached
            && when.elapsed() < POLICIES_TTL
        {
            return Ok(policies);
        }
        let result = self.query_database(&self.options.database, "SHOW RETENTION POLICIES").await;
        let policies = match result {
            Ok((rows, version)) => Policies {
                names: rows
                    .iter()
                    .flat_map(|row| &row.values)
                    .filter_map(|value| Some(value.first()?.as_str()?.to_owned()))
                    .collect(),
                are_buckets: version.trim_start_matches('v').starts_with("2."),
            },
            // The database does not exist yet, or the store has no policies: no project has its
            // own.
            Err(InfluxError::Refused(why)) => {
                tracing::debug!(reason = why, "failed to list the retention policies of InfluxDB");
                Policies::default()
            }
            Err(error) => return Err(error),
        };
        let policies = Arc::new(policies);
        *lock() = Some((Instant::now(), policies.clone()));
        Ok(policies)
    }
}
