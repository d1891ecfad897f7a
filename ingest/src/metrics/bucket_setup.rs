//! Creation of a project's own bucket in a metric store, with its retention: a retention policy of
//! the database in InfluxDB 1.x, a bucket in 2.x. Other stores have neither and return an error.
//!
//! Idempotent, also when several processes run it concurrently: a bucket that is already correct is
//! not changed.

use std::time::Duration;

use muster_schemas::Retention;
use muster_schemas::retention::{OWN_POLICY, own_bucket};
use muster_schemas::units::parse_duration;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{InfluxClient, NO_QUERY};
use super::response::store_message;
use super::setup::send;
use super::store_settings::Api;

/// Delay before a refused request is repeated.
const RETRY_DELAY: Duration = Duration::from_millis(200);
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Why a store does not keep a project's metrics with the requested retention.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// The store does not support it, or refuses it.
    #[error("{0}")]
    Refused(String),
    /// The store is unavailable.
    #[error("{0}")]
    Unavailable(String),
}

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
    /// See [`BucketError`].
    pub async fn apply_retention(
        &self,
        policy: &str,
        retention: Retention,
    ) -> Result<(), BucketError> {
        self.set_retention(policy, retention, IfMissing::Create).await
    }

    /// Sets an existing bucket to the retention of the database itself; creates none.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub async fn reset_retention(&self, policy: &str) -> Result<(), BucketError> {
        self.set_retention(policy, Retention::Default, IfMissing::Skip).await
    }

    async fn set_retention(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), BucketError> {
        match self.try_set_retention(policy, retention, missing).await {
            // Another process may have done the same concurrently; the second attempt then
            // succeeds.
            Err(BucketError::Refused(_)) => {
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
    ) -> Result<(), BucketError> {
        match self.api().await.map_err(BucketError::Unavailable)? {
            Api::V1 => self.set_retention_v1(policy, retention, missing).await,
            _ => self.set_retention_v2(policy, retention, missing).await,
        }
    }

    async fn set_retention_v1(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), BucketError> {
        let database = quoted(&self.settings.database);
        let show = format!("SHOW RETENTION POLICIES ON {database}");
        let policies = match self.influxql(&show).await {
            Err(BucketError::Refused(reason)) if reason.contains("database not found") => {
                self.create_database().await.map_err(BucketError::Refused)?;
                self.influxql(&show).await?
            }
            found => found?,
        };
        let policies = parse_policies(&policies);
        let own = policies.iter().find(|it| it.name == policy);
        let seconds = match retention {
            Retention::Days(days) => u64::from(days) * DAY,
            Retention::Default if own.is_none() && missing == IfMissing::Skip => return Ok(()),
            Retention::Default => {
                let named = self.settings.retention_policy.as_deref();
                let is_shared = |it: &&Policy| named.map_or(it.is_default, |name| it.name == name);
                policies.iter().find(is_shared).map_or(0, |it| it.seconds)
            }
        };
        let shard = shard_seconds(seconds);
        let (verb, ending) = match own {
            Some(own) if (own.seconds, own.shard) == (seconds, shard) => return Ok(()),
            Some(_) => ("ALTER", ""),
            None => ("CREATE", " REPLICATION 1"),
        };
        let duration = if seconds == 0 { "INF".to_owned() } else { format!("{seconds}s") };
        let statement = format!(
            "{verb} RETENTION POLICY {} ON {database} DURATION {duration}{ending} SHARD DURATION {shard}s",
            quoted(policy)
        );
        self.influxql(&statement).await.map(drop)
    }

    /// Runs one statement; returns the store's response if it succeeded.
    async fn influxql(&self, statement: &str) -> Result<Value, BucketError> {
        let request = self.request(Method::POST, "query", &[("q", statement)]);
        let (status, body) =
            send(request.map_err(BucketError::Refused)?).await.map_err(BucketError::Unavailable)?;
        let response: Value = serde_json::from_str(&body).unwrap_or_default();
        // InfluxQL reports some errors with status 200.
        let error = response["results"][0]["error"].as_str().or_else(|| response["error"].as_str());
        match error {
            _ if status.is_server_error() => Err(BucketError::Unavailable(store_message(&body))),
            Some(error) => Err(BucketError::Refused(error.to_owned())),
            None if status.is_success() => Ok(response),
            None => Err(BucketError::Refused(format!("{status}: {}", store_message(&body)))),
        }
    }

    async fn set_retention_v2(
        &self,
        policy: &str,
        retention: Retention,
        missing: IfMissing,
    ) -> Result<(), BucketError> {
        let Some(org) = self.org_id().await.map_err(BucketError::Unavailable)? else {
            let message = "it does not support buckets of InfluxDB 2.x";
            return Err(BucketError::Refused(message.to_owned()));
        };
        let database = &self.settings.database;
        let name = own_bucket(database, policy);
        let shared = match self.bucket(&org, database).await? {
            Some(shared) => shared,
            None => {
                self.create_database().await.map_err(BucketError::Refused)?;
                let lacking =
                    || BucketError::Unavailable(format!("the bucket '{database}' does not exist"));
                self.bucket(&org, database).await?.ok_or_else(lacking)?
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
        self.map_bucket(&org, (database, "all-projects", &shared.id), is_default).await?;
        let is_own = |it: &Value| it["virtual"] != true && it["retention_policy"] == policy;
        self.map_bucket(&org, (database, policy, &id), is_own).await?;
        self.map_bucket(&org, (&name, "autogen", &id), |it| it["bucketID"] == id.as_str()).await
    }

    /// Maps a database and a retention policy to a bucket, so that InfluxQL finds it, unless
    /// `is_match` accepts an existing mapping of the database.
    async fn map_bucket(
        &self,
        org: &str,
        (database, policy, bucket): (&str, &str, &str),
        is_match: impl Fn(&Value) -> bool,
    ) -> Result<(), BucketError> {
        let query = [("orgID", org), ("db", database)];
        let mapped = self.json(Method::GET, "api/v2/dbrps", &query, None).await?;
        if mapped["content"].as_array().into_iter().flatten().any(is_match) {
            return Ok(());
        }
        let mapping = json!({"orgID": org, "bucketID": bucket, "database": database,
            "retention_policy": policy, "default": !policy.starts_with(OWN_POLICY)});
        self.json(Method::POST, "api/v2/dbrps", NO_QUERY, Some(&mapping)).await.map(drop)
    }

    async fn bucket(&self, org: &str, name: &str) -> Result<Option<Bucket>, BucketError> {
        let query = [("orgID", org), ("name", name)];
        let request = self.request(Method::GET, "api/v2/buckets", &query);
        let (status, body) =
            send(request.map_err(BucketError::Refused)?).await.map_err(BucketError::Unavailable)?;
        // 2.x responds "not found" for a missing name.
        if status == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let found: Value = check_response(status, &body)?;
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
    ) -> Result<Value, BucketError> {
        let mut request = self.request(method, path, query).map_err(BucketError::Refused)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        let (status, body) = send(request).await.map_err(BucketError::Unavailable)?;
        check_response(status, &body)
    }
}

struct Bucket {
    id: String,
    /// 0: unlimited.
    seconds: u64,
}

fn check_response(status: reqwest::StatusCode, body: &str) -> Result<Value, BucketError> {
    let message = || format!("{status}: {}", store_message(body));
    if status.is_success() {
        Ok(serde_json::from_str(body).unwrap_or_default())
    } else if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
        Err(BucketError::Unavailable(message()))
    } else {
        Err(BucketError::Refused(message()))
    }
}

/// A retention policy in the result of `SHOW RETENTION POLICIES`; 0 seconds: unlimited.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    name: String,
    seconds: u64,
    shard: u64,
    is_default: bool,
}

fn parse_policies(response: &Value) -> Vec<Policy> {
    let series = &response["results"][0]["series"][0];
    let columns: Vec<&str> =
        series["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let rows = series["values"].as_array().into_iter().flatten();
    rows.map(|row| {
        let of = |column: &str| {
            let index = columns.iter().position(|it| *it == column);
            index.map(|index| &row[index]).unwrap_or(&Value::Null)
        };
        let seconds = |column: &str| {
            parse_duration(of(column).as_str().unwrap_or_default()).map_or(0, |it| it.as_secs())
        };
        Policy {
            name: of("name").as_str().unwrap_or_default().to_owned(),
            seconds: seconds("duration"),
            shard: seconds("shardGroupDuration"),
            is_default: of("default") == &Value::Bool(true),
        }
    })
    .collect()
}

/// Duration of one shard, in seconds: what InfluxDB itself chooses for such a retention. Points are
/// deleted a whole shard at a time, so up to this much later.
pub(super) fn shard_seconds(seconds: u64) -> u64 {
    match seconds {
        0 => 7 * DAY,
        short if short < 2 * DAY => HOUR,
        medium if medium <= 180 * DAY => DAY,
        _ => 7 * DAY,
    }
}

/// Quotes an identifier for InfluxQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_policies_are_parsed() {
        let response = json!({"results": [{"statement_id": 0, "series": [{
            "columns": ["name", "duration", "shardGroupDuration", "replicaN", "default"],
            "values": [["autogen", "0s", "168h0m0s", 1, true], ["week", "168h0m0s", "24h0m0s", 1, false]]
        }]}]});
        let policy = |name: &str, seconds, shard, is_default| Policy {
            name: name.to_owned(),
            seconds,
            shard,
            is_default,
        };
        assert_eq!(
            parse_policies(&response),
            [policy("autogen", 0, 7 * DAY, true), policy("week", 7 * DAY, DAY, false)]
        );
        assert_eq!(parse_policies(&json!({})), []);
    }

    #[test]
    fn shard_durations_match_the_retention() {
        for (days, hours) in [(0, 168), (1, 1), (2, 24), (180, 24), (181, 168), (9_999, 168)] {
            assert_eq!(shard_seconds(days * DAY), hours * HOUR, "{days}");
        }
    }
}
