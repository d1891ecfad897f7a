//! Creation of a project's own bucket in a metric store, with its retention: a retention policy of
//! the database in InfluxDB 1.x, a bucket in 2.x. Other stores have neither and return an error.
//!
//! Idempotent, also when several processes run it concurrently: a bucket that is already correct is
//! not changed.

use std::time::Duration;

use async_recursion::async_recursion as boxed;
use muster_schemas::Retention;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bucket::{OWN_POLICY, own_bucket};
use crate::client::{InfluxClient, NO_QUERY};
use crate::error::StoreError;
use crate::quoting::identifier;
use crate::retention_policies::RetentionPolicy;
use crate::settings::Api;

/// Delay before a refused request is repeated.
const RETRY_DELAY: Duration = Duration::from_millis(200);
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What to do about a missing bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfMissing {
    Create,
    Skip,
}

impl InfluxClient {
    /// Creates the bucket `policy` with this retention, or changes its retention.
    /// [`Retention::Default`] is the retention of the database itself.
    ///
    /// # Errors
    /// When the store does not support it, refuses it, or is unavailable.
    #[boxed]
    pub async fn apply_retention(
        &self,
        policy: &str,
        retention: Retention,
    ) -> Result<(), StoreError> {
        self.set_retention(policy, retention, IfMissing::Create).await
    }

    /// Sets an existing bucket to the retention of the database itself; creates none.
    ///
    /// # Errors
    /// When the store does not support it, refuses it, or is unavailable.
    #[boxed]
    pub async fn reset_retention(&self, policy: &str) -> Result<(), StoreError> {
        self.set_retention(policy, Retention::Default, IfMissing::Skip).await
    }

    async fn set_retention(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), StoreError> {
        match self.try_set_retention(policy, retention, missing).await {
            // Another process may have done the same concurrently; the second attempt then
            // succeeds.
            Err(error) if !error.is_temporary() => {
                tokio::time::sleep(RETRY_DELAY).await;
                self.try_set_retention(policy, retention, missing).await
            }
            done => done,
        }
    }

    async fn try_set_retention(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), StoreError> {
        match self.api().await? {
            Api::V1 => self.set_retention_v1(policy, retention, missing).await,
            _ => self.set_retention_v2(policy, retention, missing).await,
        }
    }

    async fn set_retention_v1(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), StoreError> {
        let policies = match self.retention_policies().await {
            Err(StoreError::Refused { message, .. }) if message.contains("database not found") => {
                self.create_database().await?;
                self.retention_policies().await?
            }
            found => found?,
        }
        .policies;
        let own = policies.iter().find(|it| it.name == policy);
        let seconds = match retention {
            Retention::Days(days) => u64::from(days) * DAY,
            Retention::Default if own.is_none() && missing == IfMissing::Skip => return Ok(()),
            Retention::Default => {
                let named = self.settings().retention_policy.as_deref();
                let is_shared =
                    |it: &&RetentionPolicy| named.map_or(it.is_default, |name| it.name == name);
                policies.iter().find(is_shared).map_or(0, |it| it.seconds)
            }
        };
        let shard = shard_seconds(seconds);
        let (verb, ending) = match own {
            Some(own) if (own.seconds, own.shard_seconds) == (seconds, shard) => return Ok(()),
            Some(_) => ("ALTER", ""),
            None => ("CREATE", " REPLICATION 1"),
        };
        let duration = if seconds == 0 { "INF".to_owned() } else { format!("{seconds}s") };
        let statement = format!(
            "{verb} RETENTION POLICY {} ON {} DURATION {duration}{ending} SHARD DURATION {shard}s",
            identifier(policy),
            identifier(&self.settings().database),
        );
        self.execute(&statement).await
    }

    async fn set_retention_v2(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), StoreError> {
        let Some(org) = self.org_id().await? else {
            return Err(StoreError::NoBuckets { store: self.store() });
        };
        let database = &self.settings().database;
        let name = own_bucket(database, policy);
        let shared = match self.bucket(&org, database).await? {
            Some(shared) => shared,
            None => {
                self.create_database().await?;
                let bucket = self.bucket(&org, database).await?;
                bucket.ok_or_else(|| StoreError::BucketMissing {
                    store: self.store(),
                    bucket: database.clone(),
                })?
            }
        };
        let own = self.bucket(&org, &name).await?;
        let seconds = match retention {
            Retention::Days(days) => u64::from(days) * DAY,
            Retention::Default if own.is_none() && missing == IfMissing::Skip => return Ok(()),
            Retention::Default => shared.seconds,
        };
        // 0: unlimited.
        let rules = json!([{"type": "expire", "everySeconds": seconds,
            "shardGroupDurationSeconds": shard_seconds(seconds)}]);
        let id = match own {
            Some(own) => {
                if own.seconds != seconds {
                    let path = format!("api/v2/buckets/{}", own.id);
                    let change = json!({"retentionRules": rules});
                    self.json(Method::PATCH, &path, NO_QUERY, Some(&change)).await?;
                }
                own.id
            }
            None => {
                let bucket = json!({"orgID": org, "name": name, "retentionRules": rules});
                let made =
                    self.json(Method::POST, "api/v2/buckets", NO_QUERY, Some(&bucket)).await?;
                made["id"].as_str().unwrap_or_default().to_owned()
            }
        };
        // For InfluxQL the bucket is a retention policy of the database, in addition to its default
        // one; and a separate database for `SHOW`, which inspects one bucket at a time. The first
        // mapping of a database becomes its default, so that of the shared bucket must exist first,
        // as a stored mapping: a virtual one, which 2.x derives from a bucket's name, does not
        // count. The virtual one is called autogen, and two of one name are an error, so this one
        // has another name.
        let is_default = |it: &Value| it["virtual"] != true && it["default"] == true;
        self.map_bucket(&org, database, "all-projects", &shared.id, is_default).await?;
        let is_own = |it: &Value| it["virtual"] != true && it["retention_policy"] == policy;
        self.map_bucket(&org, database, policy, &id, is_own).await?;
        self.map_bucket(&org, &name, "autogen", &id, |it| it["bucketID"] == id.as_str()).await
    }

    /// Maps a database and a retention policy to a bucket, so that InfluxQL finds it, unless
    /// `is_match` accepts an existing mapping of the database.
    async fn map_bucket(
        &self,
        org: &str,
        database: &str,
        policy: &str,
        bucket: &str,
        is_match: impl Fn(&Value) -> bool,
    ) -> Result<(), StoreError> {
        let query = [("orgID", org), ("db", database)];
        let mapped = self.json(Method::GET, "api/v2/dbrps", &query, None).await?;
        if mapped["content"].as_array().into_iter().flatten().any(is_match) {
            return Ok(());
        }
        let mapping = json!({"orgID": org, "bucketID": bucket, "database": database,
            "retention_policy": policy, "default": !policy.starts_with(OWN_POLICY)});
        self.json(Method::POST, "api/v2/dbrps", NO_QUERY, Some(&mapping)).await.map(drop)
    }

    async fn bucket(&self, org: &str, name: &str) -> Result<Option<Bucket>, StoreError> {
        let query = [("orgID", org), ("name", name)];
        let request = self.request(Method::GET, "api/v2/buckets", &query);
        let (status, body) = self.send_text(request).await?;
        // 2.x responds "not found" for a missing name.
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let found = self.parse_json(status, &body)?;
        let mut buckets = found["buckets"].as_array().into_iter().flatten();
        Ok(buckets.find(|bucket| bucket["name"] == name).map(|bucket| Bucket {
            id: bucket["id"].as_str().unwrap_or_default().to_owned(),
            seconds: bucket["retentionRules"][0]["everySeconds"].as_u64().unwrap_or(0),
        }))
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, StoreError> {
        let mut request = self.request(method, path, query);
        if let Some(body) = body {
            request = request.json(body);
        }
        let (status, body) = self.send_text(request).await?;
        self.parse_json(status, &body)
    }

    fn parse_json(&self, status: StatusCode, body: &str) -> Result<Value, StoreError> {
        if status.is_success() {
            Ok(serde_json::from_str(body).unwrap_or_default())
        } else {
            Err(self.error_of(status, body))
        }
    }
}

struct Bucket {
    id: String,
    /// 0: unlimited.
    seconds: u64,
}

/// Duration of one shard, in seconds: what InfluxDB itself chooses for such a retention. Points are
/// deleted a whole shard at a time, so up to this much later.
#[must_use]
pub const fn shard_seconds(seconds: u64) -> u64 {
    match seconds {
        0 => 7 * DAY,
        short if short < 2 * DAY => HOUR,
        medium if medium <= 180 * DAY => DAY,
        _ => 7 * DAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_durations_match_the_retention() {
        for (days, hours) in [(0, 168), (1, 1), (2, 24), (180, 24), (181, 168), (9_999, 168)] {
            assert_eq!(shard_seconds(days * DAY), hours * HOUR, "{days}");
        }
    }
}
