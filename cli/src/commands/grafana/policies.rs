//! Adds projects' own retention policies to dashboards and alert rules: Grafana queries InfluxDB
//! directly, and InfluxQL reads only the policies that a query names.

use anyhow::{Context, Result};
use muster_metric_store::{OWN_POLICY, StoreError, StoreSettings, identifier};
use serde_json::Value;

use super::influx::client;

/// Returns the names of the store's policies; empty for a store without policies.
pub(super) async fn read_policies(store: &StoreSettings) -> Result<Vec<String>> {
    let policies = match client(store)?.retention_policies().await {
        Ok(found) => found.policies,
        // The database does not exist yet, or the store has no policies.
        Err(StoreError::Refused { .. } | StoreError::Malformed { .. }) => Vec::new(),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("failed to query InfluxDB at {} for its retention policies", store.url)
            });
        }
    };
    let names = policies.into_iter().map(|policy| policy.name);
    Ok(names.filter(|name| name.starts_with(OWN_POLICY)).collect())
}

/// Adds these policies to a query: each `FROM "m"` becomes `FROM "m", "policy"."m"`. Other queries,
/// such as SQL, are not changed. Pure.
pub(super) fn with_policies(query: &str, policies: &[String]) -> String {
    const FROM: &str = "FROM \"";
    let mut text = String::with_capacity(query.len());
    let mut rest = query;
    while let Some((before, after)) = rest.split_once(FROM) {
        let Some((name, after)) = after.split_once('"') else { break };
        text.push_str(before);
        text.push_str(FROM);
        text.push_str(name);
        text.push('"');
        for policy in policies {
            text.push_str(&format!(", {}.\"{name}\"", identifier(policy)));
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Adds the policies to all queries of a dashboard.
pub(super) fn add_policies_to_json(text: &str, policies: &[String]) -> Result<String> {
    let mut document: Value = serde_json::from_str(text)?;
    in_json(&mut document, policies);
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// Adds the policies to all queries of an alert rule file.
pub(super) fn add_policies_to_yaml(text: &str, policies: &[String]) -> Result<String> {
    let mut document: serde_norway::Value = serde_norway::from_str(text)?;
    in_yaml(&mut document, policies);
    Ok(serde_norway::to_string(&document)?)
}

fn in_json(value: &mut Value, policies: &[String]) {
    match value {
        Value::String(text) => *text = with_policies(text, policies),
        Value::Array(items) => items.iter_mut().for_each(|item| in_json(item, policies)),
        Value::Object(items) => items.values_mut().for_each(|item| in_json(item, policies)),
        _ => {}
    }
}

fn in_yaml(value: &mut serde_norway::Value, policies: &[String]) {
    use serde_norway::Value;
    match value {
        Value::String(text) => *text = with_policies(text, policies),
        Value::Sequence(items) => items.iter_mut().for_each(|item| in_yaml(item, policies)),
        Value::Mapping(items) => items.iter_mut().for_each(|(_, item)| in_yaml(item, policies)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::{DASHBOARDS, RULES};
    use super::*;

    #[test]
    fn a_query_includes_the_policies() {
        let policies = ["project-a".to_owned(), "project-b".to_owned()];
        for (query, expected) in [
            (
                "SELECT max(\"v\") FROM (SELECT last(\"v\") AS \"v\" FROM \"cpu\" WHERE x) WHERE y",
                "SELECT max(\"v\") FROM (SELECT last(\"v\") AS \"v\" FROM \"cpu\", \
                 \"project-a\".\"cpu\", \"project-b\".\"cpu\" WHERE x) WHERE y",
            ),
            (
                "SHOW FIELD KEYS FROM \"$measurement\"",
                "SHOW FIELD KEYS FROM \"$measurement\", \"project-a\".\"$measurement\", \
                 \"project-b\".\"$measurement\"",
            ),
            ("SELECT 1 FROM grafana.devices", "SELECT 1 FROM grafana.devices"),
            ("FROM \"", "FROM \""),
        ] {
            assert_eq!(with_policies(query, &policies), expected);
            assert_eq!(with_policies(query, &[]), query);
        }
    }

    /// All queries of InfluxDB are changed, and nothing else in the files.
    #[test]
    fn the_policies_are_added_to_the_files() {
        let policies = ["project-a".to_owned()];
        for (path, text) in DASHBOARDS {
            let same: Value =
                serde_json::from_str(&add_policies_to_json(text, &[]).unwrap()).unwrap();
            assert_eq!(same, serde_json::from_str::<Value>(text).unwrap(), "{path}");
            let widened = add_policies_to_json(text, &policies).unwrap();
            let added = widened.matches(", \\\"project-a\\\".\\\"").count();
            assert_eq!(added, text.matches("FROM \\\"").count(), "{path}");
            assert!(added > 4, "{path}");
        }
        for (path, text) in RULES {
            let widened = add_policies_to_yaml(text, &policies).unwrap();
            let added = widened.matches(", \"project-a\".\"").count();
            assert!(added >= 4, "{path}: {widened}");
        }
    }
}
