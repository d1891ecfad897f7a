//! The config variables of the agent, which `docs/agent.md` lists.
//!
//! Other variables belong to applications: they are written to `config.json` and not validated,
//! except those of `metrics.`, where a mistake would go unnoticed.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_schemas::names::{ConfigValue, ConfigVars};
use muster_schemas::units::parse_duration;

use crate::local::{ListenerSettings, Quota};
use crate::log_level::LevelError;
use crate::metrics::{Group, GroupSet, UnknownGroup};
use crate::report::SampleSettings;

/// Maximum interval between samples.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// The settings of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) samples: SampleSettings,
    /// Maximum amount of metrics that applications may write.
    pub(super) quota: Quota,
    /// The listeners for applications.
    pub(super) listeners: ListenerSettings,
    /// Maximum number of programs of operations that run concurrently.
    pub(super) max_concurrent_runs: usize,
    /// Id of the newest request for a new signing key; each id is used once.
    pub(super) key_rotation_request: Option<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            samples: SampleSettings::default(),
            quota: Quota::default(),
            listeners: ListenerSettings::default(),
            max_concurrent_runs: 4,
            key_rotation_request: None,
        }
    }
}

/// The reason why a variable cannot be applied.
#[derive(Debug, thiserror::Error)]
enum InvalidSetting {
    #[error("'{value}' is not {expected}")]
    Value { value: String, expected: String },
    #[error(transparent)]
    Group(#[from] UnknownGroup),
    #[error(
        "is unknown; use metrics.interval, metrics.interval.GROUP, metrics.groups, metrics.udp, \
         metrics.json, metrics.socket, metrics.series or metrics.rate"
    )]
    Unknown,
}

impl InvalidSetting {
    fn not(value: &ConfigValue, expected: &str) -> Self {
        Self::Value { value: value.to_string(), expected: expected.to_owned() }
    }
}

/// Returns the settings from these variables, after setting the log level, and the variables that
/// could not be applied with the reasons. A variable that cannot be applied keeps its default.
pub(super) fn read(
    vars: &ConfigVars,
    set_level: &dyn Fn(&str) -> Result<(), LevelError>,
) -> (Settings, BTreeMap<String, String>) {
    let mut settings = Settings::default();
    let mut errors = BTreeMap::new();
    let mut level = "info";
    for (key, value) in vars {
        let outcome = match key.as_str() {
            "metrics.interval" => {
                interval(value).map(|interval| settings.samples.interval = interval)
            }
            "metrics.groups" => groups(value).map(|groups| settings.samples.groups = groups),
            "metrics.udp" => port(value).map(|port| settings.listeners.udp = port.or_default(8094)),
            "metrics.json" => {
                port(value).map(|port| settings.listeners.json = port.or_default(8092))
            }
            "metrics.socket" => match value {
                ConfigValue::Bool(is) => {
                    settings.listeners.sockets = *is;
                    Ok(())
                }
                other => Err(InvalidSetting::not(other, "true or false")),
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
                    let expected = "an integer; `muster device rotate-key` sets it";
                    Err(InvalidSetting::not(other, expected))
                }
            },
            "log.level" => match value {
                ConfigValue::Text(text) => {
                    level = text;
                    Ok(())
                }
                other => Err(InvalidSetting::not(other, "text")),
            },
            other => match other.strip_prefix("metrics.") {
                Some(rest) => apply_group_interval(&mut settings.samples, rest, value),
                None => Ok(()),
            },
        };
        if let Err(error) = outcome {
            errors.insert(key.to_string(), error.to_string());
        }
    }
    if let Err(error) = set_level(level) {
        errors.insert("log.level".to_owned(), error.to_string());
    }
    (settings, errors)
}

/// Applies `interval.<group>`, the remainder of a variable after `metrics.`.
fn apply_group_interval(
    settings: &mut SampleSettings,
    rest: &str,
    value: &ConfigValue,
) -> Result<(), InvalidSetting> {
    let name = rest.strip_prefix("interval.").ok_or(InvalidSetting::Unknown)?;
    let group: Group = name.parse()?;
    settings.set_interval_of(group, interval(value)?);
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

fn port(value: &ConfigValue) -> Result<PortSetting, InvalidSetting> {
    let port = match value {
        ConfigValue::Bool(is) => return Ok(PortSetting::Enabled(*is)),
        ConfigValue::Int(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
        _ => None,
    };
    port.map(PortSetting::Number)
        .ok_or_else(|| InvalidSetting::not(value, "a port (1 to 65535), true or false"))
}

fn number(value: &ConfigValue, min: u32, max: u32) -> Result<u32, InvalidSetting> {
    let number = match value {
        ConfigValue::Int(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| InvalidSetting::not(value, &format!("an integer from {min} to {max}")))
}

fn interval(value: &ConfigValue) -> Result<Duration, InvalidSetting> {
    let interval = match value {
        ConfigValue::Text(text) => parse_duration(text),
        _ => None,
    };
    interval.filter(|interval| *interval <= MAX_INTERVAL).ok_or_else(|| {
        InvalidSetting::not(value, "a duration of 1s to 1h with a unit, such as 30s")
    })
}

fn groups(value: &ConfigValue) -> Result<GroupSet, InvalidSetting> {
    match value {
        ConfigValue::Text(text) => Ok(text.parse()?),
        other => Err(InvalidSetting::not(other, "text such as cpu,mem,disk")),
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
            if level == "loud" { Err(LevelError::Unknown(level.to_owned())) } else { Ok(()) }
        };
        let two: GroupSet = [Group::Cpu, Group::Mem].into_iter().collect();
        let default = Settings::default();
        let samples = default.samples;
        let with = |samples| Settings { samples, ..default };
        for (given, expected, bad) in [
            (vec![], default, vec![]),
            (
                vec![("metrics.interval", text("30s")), ("metrics.groups", text("cpu, mem"))],
                with(SampleSettings { interval: Duration::from_secs(30), groups: two, ..samples }),
                vec![],
            ),
            (
                vec![("metrics.groups", text("-disk,-temp")), ("metrics.interval.cpu", text("1s"))],
                {
                    let groups = GroupSet::ALL.without(Group::Disk).without(Group::Temp);
                    let mut samples = SampleSettings { groups, ..samples };
                    samples.set_interval_of(Group::Cpu, Duration::from_secs(1));
                    with(samples)
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
                with(SampleSettings { interval: Duration::from_secs(120), ..samples }),
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
