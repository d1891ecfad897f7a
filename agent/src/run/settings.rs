//! The config variables of the agent, which `docs/agent.md` lists.
//!
//! Other variables belong to applications: they are written to `config.json` and not validated,
//! except those of `metrics.`, where a mistake would go unnoticed.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_schemas::names::{ConfigValue, ConfigVars};

use crate::local::{ListenerSettings, Quota};
use crate::metrics::{Group, GroupSet};

/// The settings of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Interval between two rounds of samples, in whole seconds.
    pub interval: Duration,
    /// Groups that are sampled.
    pub groups: GroupSet,
    /// Intervals of groups that differ from the default interval.
    own_intervals: [Option<Duration>; Group::ALL.len()],
    /// Maximum amount of metrics that applications may write.
    pub quota: Quota,
    /// The listeners for applications.
    pub(crate) listeners: ListenerSettings,
    /// Maximum number of programs of operations that run concurrently.
    pub max_concurrent_runs: usize,
    /// Id of the newest request for a new signing key; each id is used once.
    pub(crate) key_rotation_request: Option<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            groups: GroupSet::ALL,
            own_intervals: [None; Group::ALL.len()],
            quota: Quota::default(),
            listeners: ListenerSettings::default(),
            max_concurrent_runs: 4,
            key_rotation_request: None,
        }
    }
}

impl Settings {
    /// Returns the interval between two samples of a group.
    #[must_use]
    pub fn interval_of(&self, group: Group) -> Duration {
        self.own_intervals.get(group as usize).copied().flatten().unwrap_or(self.interval)
    }
}

/// Returns the settings from these variables, after setting the log level, and the variables that
/// could not be applied with the reasons. A variable that cannot be applied keeps its default.
pub(crate) fn read(
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
            "metrics.udp" => port(value).map(|port| settings.listeners.udp = port.or_default(8094)),
            "metrics.json" => {
                port(value).map(|port| settings.listeners.json = port.or_default(8092))
            }
            "metrics.socket" => match value {
                ConfigValue::Bool(is) => {
                    settings.listeners.sockets = *is;
                    Ok(())
                }
                other => Err(format!("'{other}' is not true or false")),
            },
            "metrics.series" => {
                number(value, 1, 100_000).map(|series| settings.quota.series = series)
            }
            "metrics.rate" => number(value, 1, 10_000).map(|rate| settings.quota.rate = rate),
            "runs.at_once" => {
                number(value, 1, 64).map(|number| settings.max_concurrent_runs = number as usize)
            }
            "agent.key_generation" => match value {
                ConfigValue::Int(request) => {
                    settings.key_rotation_request = Some(*request);
                    Ok(())
                }
                other => {
                    Err(format!("'{other}' is not an integer; `muster device rotate-key` sets it"))
                }
            },
            "log.level" => match value {
                ConfigValue::Text(text) => {
                    level = text;
                    Ok(())
                }
                _ => Err("is not text".to_owned()),
            },
            other => match other.strip_prefix("metrics.") {
                Some(rest) => apply_group_interval(&mut settings, rest, value),
                None => Ok(()),
            },
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

/// Applies `interval.<group>`, the remainder of a variable after `metrics.`.
fn apply_group_interval(
    settings: &mut Settings,
    rest: &str,
    value: &ConfigValue,
) -> Result<(), String> {
    let Some(name) = rest.strip_prefix("interval.") else {
        return Err("is unknown; use metrics.interval, metrics.interval.GROUP, metrics.groups, \
             metrics.udp, metrics.json, metrics.socket, metrics.series or metrics.rate"
            .to_owned());
    };
    let group: Group =
        name.parse().map_err(|error: crate::metrics::UnknownGroup| error.to_string())?;
    let own = interval(value)?;
    if let Some(slot) = settings.own_intervals.get_mut(group as usize) {
        *slot = Some(own);
    }
    Ok(())
}

/// A port number, or whether the default port is open.
enum PortSetting {
    Number(u16),
    Enabled(bool),
}

impl PortSetting {
    const fn or_default(self, default: u16) -> Option<u16> {
        match self {
            Self::Number(port) => Some(port),
            Self::Enabled(true) => Some(default),
            Self::Enabled(false) => None,
        }
    }
}

fn port(value: &ConfigValue) -> Result<PortSetting, String> {
    let port = match value {
        ConfigValue::Bool(is) => return Ok(PortSetting::Enabled(*is)),
        ConfigValue::Int(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
        _ => None,
    };
    port.map(PortSetting::Number)
        .ok_or_else(|| format!("'{value}' is not a port (1 to 65535), true or false"))
}

fn number(value: &ConfigValue, min: u32, max: u32) -> Result<u32, String> {
    let number = match value {
        ConfigValue::Int(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("'{value}' is not an integer from {min} to {max}"))
}

fn interval(value: &ConfigValue) -> Result<Duration, String> {
    let seconds = match value {
        ConfigValue::Int(seconds) => u64::try_from(*seconds).ok(),
        ConfigValue::Text(text) => parse_duration(text),
        _ => None,
    };
    seconds.filter(|seconds| (1..=3600).contains(seconds)).map(Duration::from_secs).ok_or_else(
        || format!("'{value}' is not a duration from 1 to 3600 seconds, such as 30, 30s or 5m"),
    )
}

/// Parses `90s`, `5m` or `1h` into seconds.
fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds)
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
    fn known_variables_are_applied_and_invalid_ones_are_named() {
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
                Settings { interval: Duration::from_secs(30), groups: two, ..default },
                vec![],
            ),
            (
                vec![
                    ("metrics.groups", text("-disk,-temp")),
                    ("metrics.interval.cpu", ConfigValue::Int(1)),
                ],
                Settings {
                    groups: GroupSet::ALL.without(Group::Disk).without(Group::Temp),
                    own_intervals: {
                        let mut own = default.own_intervals;
                        own[Group::Cpu as usize] = Some(Duration::from_secs(1));
                        own
                    },
                    ..default
                },
                vec![],
            ),
            (
                vec![
                    ("metrics.udp", ConfigValue::Bool(false)),
                    ("metrics.json", ConfigValue::Int(9092)),
                    ("metrics.socket", ConfigValue::Bool(false)),
                    ("metrics.series", ConfigValue::Int(5)),
                    ("metrics.rate", ConfigValue::Int(50)),
                    ("agent.key_generation", ConfigValue::Int(2)),
                    ("runs.at_once", ConfigValue::Int(2)),
                ],
                Settings {
                    max_concurrent_runs: 2,
                    listeners: ListenerSettings { udp: None, json: Some(9092), sockets: false },
                    quota: Quota { series: 5, rate: 50 },
                    key_rotation_request: Some(2),
                    ..default
                },
                vec![],
            ),
            (vec![("metrics.udp", ConfigValue::Int(0))], default, vec!["metrics.udp"]),
            (vec![("metrics.json", text("8092"))], default, vec!["metrics.json"]),
            (vec![("metrics.socket", ConfigValue::Int(1))], default, vec!["metrics.socket"]),
            (vec![("runs.at_once", ConfigValue::Int(0))], default, vec!["runs.at_once"]),
            (vec![("metrics.rate", ConfigValue::Int(-1))], default, vec!["metrics.rate"]),
            (vec![("metrics.intervall", ConfigValue::Int(1))], default, vec!["metrics.intervall"]),
            (
                vec![("metrics.interval.gpu", ConfigValue::Int(1))],
                default,
                vec!["metrics.interval.gpu"],
            ),
            (vec![("agent.key_generation", text("x"))], default, vec!["agent.key_generation"]),
            (vec![("metrics.interval", ConfigValue::Int(0))], default, vec!["metrics.interval"]),
            (
                vec![("metrics.interval", text("2m"))],
                Settings { interval: Duration::from_secs(120), ..default },
                vec![],
            ),
            (vec![("metrics.interval", text("2h"))], default, vec!["metrics.interval"]),
            (vec![("metrics.interval", text("é"))], default, vec!["metrics.interval"]),
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
