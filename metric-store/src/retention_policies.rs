//! The retention policies of the database, as InfluxQL lists them.

use async_recursion::async_recursion as boxed;
use muster_schemas::units::parse_duration;
use serde_json::Value;

use crate::client::InfluxClient;
use crate::error::StoreError;
use crate::query::Row;

/// The retention policies of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicies {
    /// The policies.
    pub policies: Vec<RetentionPolicy>,
    /// Whether the store is an InfluxDB 2.x, in which a policy is a bucket.
    pub are_buckets: bool,
}

/// A retention policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Name of the policy.
    pub name: String,
    /// Time after which points are deleted, in seconds; 0: unlimited.
    pub seconds: u64,
    /// Duration of one shard, in seconds.
    pub shard_seconds: u64,
    /// Whether the policy is used when a request names none.
    pub is_default: bool,
}

impl InfluxClient {
    /// Lists the retention policies of the database.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the database does not exist, or the store has no policies;
    /// other errors when it is unavailable.
    #[boxed]
    pub async fn retention_policies(&self) -> Result<RetentionPolicies, StoreError> {
        let database = &self.settings().database;
        let (rows, version) = self.query_with_version(database, "SHOW RETENTION POLICIES").await?;
        Ok(RetentionPolicies {
            policies: rows.iter().flat_map(parse_policies).collect(),
            are_buckets: version.is_some_and(|version| version.major == 2),
        })
    }
}

fn parse_policies(row: &Row) -> impl Iterator<Item = RetentionPolicy> {
    let index = |column: &str| row.columns.iter().position(|it| it == column);
    let (name, duration, shard, default) =
        (index("name"), index("duration"), index("shardGroupDuration"), index("default"));
    row.values.iter().filter_map(move |values| {
        let value = |index: Option<usize>| index.and_then(|index| values.get(index));
        let seconds = |index| {
            let text = value(index).and_then(Value::as_str).unwrap_or_default();
            parse_duration(text).map_or(0, |duration| duration.as_secs())
        };
        Some(RetentionPolicy {
            name: value(name)?.as_str()?.to_owned(),
            seconds: seconds(duration),
            shard_seconds: seconds(shard),
            is_default: value(default) == Some(&Value::Bool(true)),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn retention_policies_are_parsed() {
        let row: Row = serde_json::from_value(json!({
            "columns": ["name", "duration", "shardGroupDuration", "replicaN", "default"],
            "values": [["autogen", "0s", "168h0m0s", 1, true], ["week", "168h0m0s", "24h0m0s", 1, false]]
        }))
        .unwrap();
        let policy = |name: &str, hours: u64, shard_hours: u64, is_default| RetentionPolicy {
            name: name.to_owned(),
            seconds: hours * 3600,
            shard_seconds: shard_hours * 3600,
            is_default,
        };
        let expected = [policy("autogen", 0, 168, true), policy("week", 168, 24, false)];
        assert_eq!(parse_policies(&row).collect::<Vec<_>>(), expected);
        assert_eq!(parse_policies(&Row::default()).count(), 0);
    }
}
