//! The buckets that may hold a project's points in InfluxDB: the project's own, and the database
//! itself, which is the bucket of the project `default` and of all points that projects sent before
//! they got buckets of their own. One query reads both and selects points by project and device.
//! Ingest creates the buckets.

use std::sync::Arc;

use muster_metric_store::{StoreError, own_bucket, own_policy};
use muster_schemas::ProjectId;

use super::metric_buckets::MetricBuckets;
use super::policy_cache::Policies;
use super::reader::MetricReader;

impl MetricReader {
    /// Returns the buckets that may currently hold a project's points.
    ///
    /// # Errors
    /// When the store is unavailable, or rejects the credentials.
    pub async fn buckets(&self, project: &ProjectId) -> Result<MetricBuckets, StoreError> {
        let own = own_policy(project);
        let policies = self.policies().await?;
        // A store without retention policies cannot separate projects.
        let are_names_shared =
            policies.names.is_empty() || *project == ProjectId::default_project();
        if !policies.names.contains(&own) {
            return Ok(MetricBuckets { are_names_shared, ..MetricBuckets::default() });
        }
        let database = &self.client.settings().database;
        let own_database = policies.are_buckets.then(|| own_bucket(database, &own));
        Ok(MetricBuckets { own: Some(own), own_database, are_names_shared, is_own_only: false })
    }

    async fn policies(&self) -> Result<Arc<Policies>, StoreError> {
        if let Some(policies) = self.policies.current() {
            return Ok(policies);
        }
        let policies = match self.client.retention_policies().await {
            Ok(found) => Policies {
                names: found.policies.into_iter().map(|policy| policy.name).collect(),
                are_buckets: found.are_buckets,
            },
            // The database does not exist yet, or the store has no policies: no project has its
            // own.
            Err(StoreError::Refused { message: reason, .. }) => {
                tracing::debug!(reason, "failed to list the retention policies of InfluxDB");
                Policies::default()
            }
            Err(error) => return Err(error),
        };
        let policies = Arc::new(policies);
        self.policies.store(policies.clone());
        Ok(policies)
    }
}
