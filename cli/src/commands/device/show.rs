//! Prints the details of devices.

use anyhow::Result;
use muster_api_types::devices::{Config, DeviceDetail, Epoch, Flags, Presence};
use muster_api_types::inventory::{Interface, Inventory};
use muster_api_types::metrics::SummaryMetric;
use muster_client::{Client, Received, segment};
use muster_schemas::names::ConfigValue;
use muster_schemas::{ConfigVersion, Timestamp};
use serde::Serialize;
use serde_json::json;

use crate::commands::target::{NamedDevice, Target};
use crate::output::{self, ago, facts, line, optional, pairs, percent, text};

/// Prints the details of each device.
pub(super) async fn show(client: &Client, target: &Target, json: bool) -> Result<()> {
    let devices = details(client, target).await?;
    if json {
        return print_json(target, devices);
    }
    for (n, device) in devices.iter().enumerate() {
        if n > 0 {
            line("");
        }
        print(device);
    }
    Ok(())
}

/// Prints the config variables of each device.
pub(super) async fn config(client: &Client, target: &Target, json: bool) -> Result<()> {
    let devices = details(client, target).await?;
    if json {
        let config = |device: &Received<DeviceDetail>| match target {
            Target::One(_) => device.field("config"),
            Target::Named(_) | Target::Matching(_) => {
                let [id, name, config] = ["id", "name", "config"].map(|name| device.field(name));
                json!({"id": id, "name": name, "config": config})
            }
        };
        return print_json(target, devices.iter().map(config).collect());
    }
    for device in &devices {
        let name = optional(device.summary.name.as_ref());
        line(format!("{name}: {}", versions(&device.config)));
        print_config(&device.config);
    }
    Ok(())
}

/// Prints an object for a named device, and a list for several or a selector, independent of its
/// length.
fn print_json(target: &Target, mut values: Vec<impl Serialize>) -> Result<()> {
    match (target, values.pop()) {
        (Target::One(_), Some(one)) => output::json(&one),
        (_, last) => {
            values.extend(last);
            output::json(&values)
        }
    }
}

/// Returns the details of the devices.
async fn details(client: &Client, target: &Target) -> Result<Vec<Received<DeviceDetail>>> {
    let paths = match target {
        Target::One(name) => vec![format!("/api/v1/devices/{}", segment(name))],
        Target::Named(_) | Target::Matching(_) => {
            target.find(client).await?.iter().map(NamedDevice::path).collect()
        }
    };
    let mut devices = Vec::with_capacity(paths.len());
    for path in paths {
        devices.push(client.get(&path, &[]).await?);
    }
    Ok(devices)
}

fn print(found: &DeviceDetail) {
    let summary = &found.summary;
    let metrics = summary.metrics.clone().unwrap_or_default();
    let value = |number: Option<f64>, metric: SummaryMetric| {
        let is_stale = metrics.stale.contains(&metric.into());
        percent(number) + if is_stale { " (stale)" } else { "" }
    };
    let inventory = found.inventory.clone().unwrap_or_default();
    let presence = found.presence.as_ref();
    let enrollment = found.enrollment.as_ref();
    let interfaces: Vec<String> = inventory.interfaces.iter().map(interface).collect();
    let skew = metrics.clock_skew_seconds.map(|skew| format!("{skew:+.3} s"));
    let memory = [
        value(metrics.memory_percent, SummaryMetric::Memory),
        optional(inventory.memory_bytes.map(of_bytes)),
    ];
    facts(&[
        ("name", optional(summary.name.as_ref())),
        ("id", text(summary.id)),
        ("status", join([text(&summary.status), optional(presence.map(since))])),
        ("last seen", optional(summary.last_seen_at.map(with_age))),
        ("labels", pairs(&summary.labels)),
        ("cpu", value(metrics.cpu_percent, SummaryMetric::Cpu)),
        ("memory", join(memory)),
        ("disk /", value(metrics.disk_percent, SummaryMetric::Disk)),
        ("battery", value(metrics.battery_percent, SummaryMetric::Battery)),
        ("hostname", optional(summary.hostname.as_ref())),
        ("os", optional(inventory.os_name.as_ref())),
        ("kernel", join([&inventory.kernel, &inventory.arch].map(|it| optional(it.as_ref())))),
        ("processor", processor(&inventory)),
        ("hardware", hardware(&inventory)),
        ("booted", optional(inventory.booted_at.map(with_age))),
        ("interfaces", interfaces.join("\n")),
        ("address", optional(presence.and_then(|presence| presence.address.as_ref()))),
        ("docker", optional(inventory.docker_version.as_ref())),
        ("time zone", optional(inventory.timezone.as_ref())),
        ("clock skew", optional(skew)),
        ("agent", text(&inventory.agent_version)),
        ("enrolled", optional(enrollment.map(|it| it.enrolled_at))),
        ("key", optional(enrollment.map(|it| it.fingerprint))),
        ("epochs", found.epochs.iter().map(epoch).collect::<Vec<_>>().join("\n")),
        ("anomalies", anomalies(&found.flags)),
        ("config", versions(&found.config)),
    ]);
    print_config(&found.config);
}

/// Joins the parts that are not empty.
fn join<const N: usize>(parts: [String; N]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn processor(inventory: &Inventory) -> String {
    let cores = inventory.cpu_cores.map(|cores| format!("× {cores}"));
    join([optional(inventory.cpu_model.as_ref()), optional(cores)])
}

fn hardware(inventory: &Inventory) -> String {
    let parts = [
        &inventory.hardware_vendor,
        &inventory.hardware_model,
        &inventory.hardware_serial,
        &inventory.virtualization,
    ];
    join(parts.map(|part| optional(part.as_ref())))
}

fn interface(interface: &Interface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(text).collect();
    let mac = optional(interface.mac.as_ref());
    format!("{}  {}  {mac}", text(&interface.name), addresses.join(" "))
}

fn versions(config: &Config) -> String {
    if config.version == ConfigVersion::ZERO {
        return "never set".to_owned();
    }
    format!("version {}, applied {}", config.version, config.applied_version)
}

/// Prints the variables, each with the device's error, if any.
fn print_config(config: &Config) {
    for (key, value) in &config.vars {
        line(match value {
            ConfigValue::Text(text) if text.starts_with("sealed:v1:") => {
                format!("  {key} (secret)")
            }
            value => format!("  {key} = {}", json!(value)),
        });
    }
    for (key, error) in &config.errors {
        line(format!("  !! {key} is not applied: {}", text(error)));
    }
}

fn epoch(epoch: &Epoch) -> String {
    let Epoch { epoch, cause, started_at, newest_seq } = epoch;
    format!("{epoch}  {} {started_at}  {newest_seq} events", text(cause))
}

/// Formats the unexpected states of a device, one per line; empty if there are none.
fn anomalies(flags: &Flags) -> String {
    let counted = |name: &str, count: u64, description: &str| {
        (count > 0).then(|| format!("{name}: {count}  {description}"))
    };
    let last_loss = flags.last_loss.as_ref().map(|loss| {
        let count = loss.missing_count.map_or("some".to_owned(), |count| count.to_string());
        format!("last loss: {count} events of epoch {}, {}", loss.epoch, text(&loss.cause))
    });
    [
        counted(
            "forks",
            flags.fork_count,
            "its history has branches: a cloned card, a restored image",
        ),
        counted("losses", flags.loss_count, "lost parts of its history"),
        last_loss,
        counted("unreadable", flags.unreadable_count, "events that could not be read"),
        counted(
            "implausible times",
            flags.implausible_time_count,
            "events with an impossible time",
        ),
        flags.clock_implausible.then(|| "its clock is wrong".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("\n")
}

fn with_age(time: Timestamp) -> String {
    format!("{time} ({})", ago(time))
}

fn since(presence: &Presence) -> String {
    format!("since {}", presence.changed_at)
}

#[expect(clippy::cast_precision_loss, reason = "a rounded number is printed")]
fn of_bytes(bytes: u64) -> String {
    format!("of {:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use muster_api_types::devices::Loss;
    use muster_schemas::events::LossCause;

    use super::*;

    #[test]
    fn only_anomalies_are_printed() {
        assert_eq!(anomalies(&Flags::default()), "");
        let odd = Flags {
            fork_count: 2,
            loss_count: 1,
            clock_implausible: true,
            last_loss: Some(Loss {
                cause: LossCause::OutboxFull.into(),
                epoch: muster_schemas::Epoch(3),
                missing_count: None,
                reported_at: Timestamp(0),
            }),
            ..Flags::default()
        };
        let text = anomalies(&odd);
        for part in ["forks: 2", "losses: 1", "epoch 3", "outbox_full", "clock is wrong"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}
