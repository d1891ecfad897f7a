//! Reads the metric store: the client, and the cached retention policies.

use std::sync::Arc;
use std::time::Duration;

use muster_metric_store::{InfluxClient, Row, StoreError, StoreSettings};

use super::metric_buckets::MetricBuckets;
use super::policy_cache::PolicyCache;

/// Timeout of a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads the metric store; cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricReader {
    pub(super) client: Arc<InfluxClient>,
    pub(super) policies: PolicyCache,
}

impl MetricReader {
    /// Creates a reader, which connects at the first query.
    ///
    /// # Errors
    /// When the settings are not usable.
    pub fn new(settings: StoreSettings) -> Result<Self, StoreError> {
        let client = InfluxClient::new(StoreSettings { timeout: QUERY_TIMEOUT, ..settings })?;
        Ok(Self { client: Arc::new(client), policies: PolicyCache::default() })
    }

    /// Executes a query; returns the series of the response, with times in microseconds.
    ///
    /// # Errors
    /// See [`InfluxClient::query`].
    pub async fn query(&self, influxql: &str) -> Result<Vec<Row>, StoreError> {
        self.client.query(influxql).await
    }

    /// Executes a `SHOW` query in all buckets of a project; returns the series of all, one bucket
    /// after the other.
    ///
    /// # Errors
    /// See [`InfluxClient::query`].
    pub async fn query_buckets(
        &self,
        buckets: &MetricBuckets,
        show: &str,
    ) -> Result<Vec<Row>, StoreError> {
        let mut all = Vec::new();
        for database in buckets.databases(&self.client.settings().database) {
            all.extend(self.client.query_database(database, show).await?);
        }
        Ok(all)
    }
}
