//! What config variables mean to the agent.
//!
//! Known are `metrics.interval` (seconds, 1 to 3600), `metrics.groups` (`cpu,mem,…`; empty for
//! none) and `log.level`. All others are the applications' own: they are handed on in
//! `config.json` and never judged here.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_schemas::names::{ConfigValue, ConfigVars};

use crate::metrics::GroupSet;

/// What the agent works by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time between two rounds of samples.
    pub interval: Duration,
    /// The groups that are sampled.
    pub groups: GroupSet,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), groups: GroupSet::ALL }
    }
}

/// The settings by these variables, the log level, and what could not be applied and why. A
/// variable that cannot be applied leaves the default.
pub(super) fn read(
    vars: &ConfigVars,
    levels: &dyn Fn(&str) -> Result<(), String>,
) -> (Settings, BTreeMap<String, String>) {
    let mut settings = Settings::default();
    let mut errors = BTreeMap::new();
    let mut level = "info";
    for (key, value) in vars {
        let outcome = match key.as_str() {
            "metrics.interval" => interval(value).map(|interval| settings.interval = interval),
            "metrics.groups" => groups(value).map(|groups| settings.groups = groups),
            "log.level" => match value {
                ConfigValue::Text(text) => {
                    level = text;
                    Ok(())
                }
                _ => Err("is not text".to_owned()),
            },
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            errors.insert(key.to_string(), error);
        }
    }
    if let Err(error) = levels(level) {
        errors.insert("log.level".to_owned(), error);
    }
    (settings, errors)
}

fn interval(value: &ConfigValue) -> Result<Duration, String> {
    let seconds = match value {
        ConfigValue::Int(seconds) => u64::try_from(*seconds).ok(),
        _ => None,
    };
    seconds
        .filter(|seconds| (1..=3600).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("'{value}' is not a whole number of seconds from 1 to 3600"))
}

fn groups(value: &ConfigValue) -> Result<GroupSet, String> {
    match value {
        ConfigValue::Text(text) => {
            text.parse().map_err(|error: crate::metrics::UnknownGroup| error.to_string())
        }
        other => Err(format!("'{other}' is not text such as cpu,mem,disk")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Group;

    #[test]
    fn known_variables_are_applied_and_bad_ones_named() {
        let vars = |vars: &[(&str, ConfigValue)]| -> ConfigVars {
            vars.iter().map(|(key, value)| (key.parse().unwrap(), value.clone())).collect()
        };
        let text = |text: &str| ConfigValue::Text(text.to_owned());
        let levels = |level: &str| {
            if level == "loud" { Err("no such level".to_owned()) } else { Ok(()) }
        };
        let two: GroupSet = [Group::Cpu, Group::Mem].into_iter().collect();
        let default = Settings::default();
        for (given, expected, bad) in [
            (vec![], default, vec![]),
            (
                vec![
                    ("metrics.interval", ConfigValue::Int(30)),
                    ("metrics.groups", text("cpu, mem")),
                ],
                Settings { interval: Duration::from_secs(30), groups: two },
                vec![],
            ),
            (vec![("metrics.interval", ConfigValue::Int(0))], default, vec!["metrics.interval"]),
            (vec![("metrics.interval", text("5"))], default, vec!["metrics.interval"]),
            (vec![("metrics.groups", text("gpu"))], default, vec!["metrics.groups"]),
            (vec![("log.level", text("loud"))], default, vec!["log.level"]),
            (vec![("app.color", text("blue"))], default, vec![]),
        ] {
            let (settings, errors) = read(&vars(&given), &levels);
            assert_eq!(settings, expected, "{given:?}");
            assert_eq!(errors.keys().collect::<Vec<_>>(), bad, "{given:?}");
        }
    }
}
