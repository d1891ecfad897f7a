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
pub(crate) mod prepare;
pub(crate) mod project;
pub(crate) mod replay;
pub(crate) mod shell;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod token;
pub(crate) mod upload;
pub(crate) mod wait;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::exit::UsageError;

/// Parses a config value: a boolean, a number, or text.
pub(crate) fn typed(text: &str) -> Value {
    serde_json::from_str::<Value>(text)
        .ok()
        .filter(|value| value.is_boolean() || value.is_number() || value.is_string())
        .unwrap_or_else(|| Value::from(text))
}

/// Parses config variables, as [`changes`]; the value of a secret one (`secret.…`) is read from a
/// file, because the process list shows arguments.
pub(crate) fn config_changes(assignments: &[String]) -> Result<Map<String, Value>> {
    let mut found = changes(assignments, typed)?;
    for (key, value) in &mut found {
        if !key.starts_with("secret.") || value.is_null() {
            continue;
        }
        let file = value.as_str().and_then(|text| text.strip_prefix('@')).ok_or_else(|| {
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
        *value = text.strip_suffix('\n').unwrap_or(&text).into();
    }
    Ok(found)
}

/// Parses `key=value` (set) and `key-` (remove) into a JSON merge patch.
pub(crate) fn changes(
    assignments: &[String],
    parse: impl Fn(&str) -> Value,
) -> Result<Map<String, Value>> {
    let mut changes = Map::new();
    for word in assignments {
        if let Some((key, value)) = word.split_once('=') {
            changes.insert(key.to_owned(), parse(value));
        } else if let Some(key) = word.strip_suffix('-') {
            changes.insert(key.to_owned(), Value::Null);
        } else {
            bail!("'{word}' is neither key=value (sets) nor key- (removes)");
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_parsed() {
        let arguments = ["a=1".to_owned(), "b-".to_owned(), "c=x=y".to_owned()];
        let found = changes(&arguments, |text| text.into()).unwrap();
        assert_eq!(Value::Object(found), serde_json::json!({"a": "1", "b": null, "c": "x=y"}));
        assert!(changes(&["x".to_owned()], |text| text.into()).is_err());
    }
}
