//! The client's commands, one file each: send a request to the API, print the response.

pub(crate) mod api_token;
pub(crate) mod bootstrap;
pub(crate) mod confirm;
pub(crate) mod connect;
pub(crate) mod context;
pub(crate) mod cp;
pub(crate) mod dead_letter;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod grafana;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod operation;
pub(crate) mod project;
pub(crate) mod replay;
pub(crate) mod selectors;
pub(crate) mod shell;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod token;
pub(crate) mod upload;
pub(crate) mod wait;

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use muster_client::{Client, List};
use muster_schemas::names::{ConfigKey, ConfigValue};

use serde::de::DeserializeOwned;

use crate::exit::UsageError;
use crate::output::note;

/// Changes of labels or config variables: a value sets, none removes.
type Changes<K, V> = BTreeMap<K, Option<V>>;

/// Returns the newest items of a list, or all without a limit. A truncated list is reported.
pub(crate) async fn newest<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    limit: Option<u16>,
    json: bool,
) -> Result<List<T>> {
    let (items, more) = client.newest(path, query, limit).await?;
    report_unknown(&items, json);
    if more {
        note(format!("showing the newest {}; there are more: --all shows all", items.len()));
    }
    Ok(items)
}

/// Returns all items of a list to print them.
pub(crate) async fn items<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    json: bool,
) -> Result<List<T>> {
    let items = client.items(path, query).await?;
    report_unknown(&items, json);
    Ok(items)
}

/// Reports the items that are not in the table, because a later server has other values.
fn report_unknown<T>(items: &List<T>, json: bool) {
    if let Some(problem) = items.problem().filter(|_| !json) {
        note(format!("{problem}; --json shows all"));
    }
}

/// Parses a config value: a boolean, a number, or text.
pub(crate) fn typed(text: &str) -> ConfigValue {
    serde_json::from_str(text).unwrap_or_else(|_| ConfigValue::Text(text.to_owned()))
}

/// Parses config variables, as [`changes`]; the value of a secret one (`secret.…`) is read from a
/// file, because the process list shows arguments.
pub(crate) fn config_changes(assignments: &[String]) -> Result<Changes<ConfigKey, ConfigValue>> {
    let mut found: Changes<ConfigKey, ConfigValue> = changes(assignments, |text| Ok(typed(text)))?;
    for (key, value) in &mut found {
        let Some(value) = value.as_mut().filter(|_| key.as_str().starts_with("secret.")) else {
            continue;
        };
        let file = match value {
            ConfigValue::Text(text) => text.strip_prefix('@'),
            _ => None,
        };
        let file = file.ok_or_else(|| {
            UsageError(format!(
                "the value of {key} is secret, and every user of this machine can read arguments; write \
                 {key}=@FILE, or {key}=@- for standard input"
            ))
        })?;
        let text = match file {
            "-" => std::io::read_to_string(std::io::stdin()),
            file => std::fs::read_to_string(file),
        };
        let text =
            text.with_context(|| format!("failed to read the value of {key} from {file}"))?;
        *value = ConfigValue::Text(text.strip_suffix('\n').unwrap_or(&text).to_owned());
    }
    Ok(found)
}

/// Parses `key=value` (set) and `key-` (remove).
pub(crate) fn changes<K, V>(
    assignments: &[String],
    parse: impl Fn(&str) -> Result<V>,
) -> Result<Changes<K, V>>
where
    K: FromStr<Err: std::error::Error + Send + Sync + 'static> + Ord,
{
    let mut changes = BTreeMap::new();
    for word in assignments {
        if let Some((key, value)) = word.split_once('=') {
            changes.insert(key.parse()?, Some(parse(value)?));
        } else if let Some(key) = word.strip_suffix('-') {
            changes.insert(key.parse()?, None);
        } else {
            bail!("'{word}' is neither key=value (sets) nor key- (removes)");
        }
    }
    Ok(changes)
}

/// Returns the values of changes that remove nothing.
pub(crate) fn values<K: Ord + std::fmt::Display, V>(
    changes: Changes<K, V>,
) -> Result<BTreeMap<K, V>> {
    let value = |(key, value): (K, Option<V>)| match value {
        Some(value) => Ok((key, value)),
        None => bail!("'{key}-' removes nothing here: give key=value"),
    };
    changes.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_values_keep_their_type() {
        for (text, value) in [
            ("true", ConfigValue::Bool(true)),
            ("3", ConfigValue::Int(3)),
            ("3.0", ConfigValue::Float(3.0)),
            ("5s", ConfigValue::Text("5s".to_owned())),
            ("\"80\"", ConfigValue::Text("80".to_owned())),
            ("null", ConfigValue::Text("null".to_owned())),
            ("[1]", ConfigValue::Text("[1]".to_owned())),
        ] {
            assert_eq!(typed(text), value, "{text}");
        }
    }

    #[test]
    fn changes_are_parsed() {
        let arguments = ["a=1".to_owned(), "b-".to_owned(), "c=x=y".to_owned()];
        let parse = |text: &str| Ok(text.to_owned());
        let found = changes::<String, _>(&arguments, parse).unwrap();
        let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        let expected = [set("a", "1"), ("b".to_owned(), None), set("c", "x=y")];
        assert_eq!(found, BTreeMap::from(expected));
        assert!(values(found).is_err());
        assert!(changes::<String, _>(&["x".to_owned()], parse).is_err());
    }
}
