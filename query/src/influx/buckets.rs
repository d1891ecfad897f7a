//! The buckets that may hold a project's points in InfluxDB: the project's own, and the database
//! itself, which is the bucket of the project `default` and of all points that projects sent before
//! they got buckets of their own. One query reads both and selects points by project and device.
//! Ingest creates the buckets.

use std::sync::Arc;

use muster_schemas::ProjectId;
use muster_schemas::retention::{own_bucket, own_policy};

use super::client::{InfluxClient, InfluxError};
use super::metric_buckets::MetricBuckets;
use super::policy_cache::Policies;

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
        if let Some(policies) = self.policies.current() {
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
        self.policies.store(policies.clone());
        Ok(policies)
    }
}
