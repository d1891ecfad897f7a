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

/// Parses a duration, in seconds: `90`, `90s`, `10m`, `2h`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("'{text}' is not a duration; write for example 90s, 10m, 2h or 7d");
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

/// Parses a number of bytes: `4096`, `512KiB`, `1MiB`, `2G`, `1.5GB`: 1 KiB is 1024, as are `K`,
/// `M` and `G`; 1 kB is 1000.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number of bytes; write for example 512KiB or 1GiB");
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let (digits, unit) = text.split_at(text.find(|c| !is_digit(c)).unwrap_or(text.len()));
    let factor: u64 = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    if let Ok(number) = digits.parse::<u64>() {
        return number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(wrong);
    }
    let number = digits.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 2^53")]
    let bytes = number as u64;
    if (1.0..9e15).contains(&number) { Ok(bytes) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_parsed() {
        for (text, expected) in [
            ("1", 1),
            ("4096", 4096),
            ("512KiB", 512 << 10),
            ("1M", 1 << 20),
            ("64GiB", 64 << 30),
            ("1.5GB", 1_500_000_000),
            ("2kB", 2_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "0", "x", "1TB", "-1", "1.2.3M", "99999999999999999999", "0.1"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_and_changes_are_parsed() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800)]
        {
            assert_eq!(seconds(text), Ok(expected));
        }
        for bad in ["", "m", "-1", "1w", "0", "99999999d", "1.5h"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
        let arguments = ["a=1".to_owned(), "b-".to_owned(), "c=x=y".to_owned()];
        let found = changes(&arguments, |text| text.into()).unwrap();
        assert_eq!(Value::Object(found), serde_json::json!({"a": "1", "b": null, "c": "x=y"}));
        assert!(changes(&["x".to_owned()], |text| text.into()).is_err());
    }
}
