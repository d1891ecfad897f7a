//! Prints the details of devices.

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::target::{NamedDevice, Target};
use crate::output::{self, ago, facts, line, pairs, percent, text};

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
        let configs = devices
            .into_iter()
            .map(|mut device| {
                let config = device["config"].take();
                match target {
                    Target::One(_) => config,
                    Target::Matching(_) => {
                        json!({"id": device["id"], "name": device["name"], "config": config})
                    }
                }
            })
            .collect();
        return print_json(target, configs);
    }
    for device in &devices {
        let config = &device["config"];
        line(format!("{}: {}", text(&device["name"]), versions(config)));
        print_config(config);
    }
    Ok(())
}

/// Prints an object for a named device, and a list for a selector, independent of its length.
fn print_json(target: &Target, mut values: Vec<Value>) -> Result<()> {
    match (target, values.pop()) {
        (Target::One(_), Some(one)) => output::json(&one),
        (_, last) => {
            values.extend(last);
            output::json(&values)
        }
    }
}

/// Returns the details of the devices.
async fn details(client: &Client, target: &Target) -> Result<Vec<Value>> {
    let found = target.find(client).await?;
    if matches!(target, Target::One(_)) {
        return Ok(found);
    }
    let mut devices = Vec::with_capacity(found.len());
    for device in &found {
        devices.push(client.get(&NamedDevice::from_value(device).path(), &[]).await?);
    }
    Ok(devices)
}

fn print(found: &Value) {
    let (inventory, enrollment, presence) =
        (&found["inventory"], &found["enrollment"], &found["presence"]);
    let metrics = &found["metrics"];
    let join = |parts: &[&Value]| {
        parts
            .iter()
            .map(|part| text(part))
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let interfaces: Vec<String> = inventory["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|interface| {
            let addresses: Vec<String> =
                interface["addresses"].as_array().into_iter().flatten().map(text).collect();
            format!(
                "{}  {}  {}",
                text(&interface["name"]),
                addresses.join(" "),
                text(&interface["mac"])
            )
        })
        .collect();
    let skew = metrics["clock_skew_us"].as_f64().map(|us| format!("{:+.3} s", us / 1e6));
    let config = &found["config"];
    facts(&[
        ("name", text(&found["name"])),
        ("id", text(&found["id"])),
        ("status", join(&[&found["status"], &Value::from(since(presence))])),
        (
            "last seen",
            join(&[&found["last_seen"], &Value::from(parenthesized(ago(&found["last_seen"])))]),
        ),
        ("labels", pairs(&found["labels"])),
        ("cpu", percent(&metrics["cpu_percent"])),
        (
            "memory",
            join(&[
                &Value::from(percent(&metrics["memory_percent"])),
                &Value::from(of(bytes(&inventory["memory_bytes"]))),
            ]),
        ),
        ("disk /", percent(&metrics["disk_percent"])),
        ("battery", percent(&metrics["battery_percent"])),
        ("hostname", text(&found["hostname"])),
        ("os", text(&inventory["os_name"])),
        ("kernel", join(&[&inventory["kernel"], &inventory["arch"]])),
        (
            "processor",
            join(&[&inventory["cpu_model"], &Value::from(cores(&inventory["cpu_cores"]))]),
        ),
        (
            "hardware",
            join(&[
                &inventory["hardware_vendor"],
                &inventory["hardware_model"],
                &inventory["hardware_serial"],
                &inventory["virtualization"],
            ]),
        ),
        (
            "booted",
            join(&[
                &inventory["boot_time"],
                &Value::from(parenthesized(ago(&inventory["boot_time"]))),
            ]),
        ),
        ("interfaces", interfaces.join("\n")),
        ("address", text(&presence["address"])),
        ("docker", text(&inventory["docker_version"])),
        ("time zone", text(&inventory["timezone"])),
        ("clock skew", skew.unwrap_or_default()),
        ("agent", text(&inventory["agent_version"])),
        ("enrolled", text(&enrollment["enrolled_at"])),
        ("key", text(&enrollment["fingerprint"])),
        ("epochs", epochs(&found["epochs"])),
        ("odd", anomalies(&found["flags"])),
        ("config", versions(config)),
    ]);
    print_config(config);
}

fn versions(config: &Value) -> String {
    if config["version"].as_u64().unwrap_or(0) == 0 {
        return "never set".to_owned();
    }
    format!("version {}, applied {}", config["version"], config["applied_version"])
}

/// Prints the variables, each with the device's error, if any.
fn print_config(config: &Value) {
    let empty = serde_json::Map::new();
    let map = |name: &str| config[name].as_object().unwrap_or(&empty);
    for (key, value) in map("vars") {
        let is_sealed = value.as_str().is_some_and(|text| text.starts_with("sealed:v1:"));
        line(if is_sealed { format!("  {key} (secret)") } else { format!("  {key} = {value}") });
    }
    for (key, error) in map("errors") {
        line(format!("  !! {key} is not applied: {}", text(error)));
    }
}

/// Formats one line per epoch, the newest last.
fn epochs(epochs: &Value) -> String {
    let one = |epoch: &Value| {
        let [number, cause, since, seq] =
            ["epoch", "cause", "since", "seq"].map(|name| text(&epoch[name]));
        format!("{number}  {cause} {since}  {seq} events")
    };
    epochs.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join("\n")
}

/// Formats the unexpected states of a device, one per line; empty if there are none.
fn anomalies(flags: &Value) -> String {
    let counted = |name: &str, description: &str| {
        let count = flags[name].as_u64().filter(|count| *count > 0)?;
        Some(format!("{name}: {count}  {description}"))
    };
    let loss = &flags["last_loss"];
    let last_loss = loss.is_object().then(|| {
        let count = loss["count"].as_u64().map_or("some".to_owned(), |count| count.to_string());
        format!("last loss: {count} events of epoch {}, {}", loss["epoch"], text(&loss["cause"]))
    });
    [
        counted("forks", "its history has branches: a cloned card, a restored image"),
        counted("losses", "lost parts of its history"),
        last_loss,
        counted("unreadable", "events that could not be read"),
        counted("odd_times", "events with an impossible time"),
        (flags["odd_clock"] == true).then(|| "odd_clock  its clock is wrong".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("\n")
}

fn parenthesized(text: String) -> String {
    if text.is_empty() { text } else { format!("({text})") }
}

fn of(text: String) -> String {
    if text.is_empty() { text } else { format!("of {text}") }
}

fn cores(value: &Value) -> String {
    value.as_u64().map(|cores| format!("× {cores}")).unwrap_or_default()
}

fn since(presence: &Value) -> String {
    presence["since"].as_str().map(|since| format!("since {since}")).unwrap_or_default()
}

fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_f64() else { return String::new() };
    format!("{:.1} GiB", bytes / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_anomalies_are_printed() {
        let quiet = json!({"forks": 0, "losses": 0, "unreadable": 0, "odd_clock": false});
        assert_eq!(anomalies(&quiet), "");
        let odd = json!({
            "forks": 2, "losses": 1, "odd_clock": true,
            "last_loss": {"cause": "disk_full", "epoch": 3, "count": null},
        });
        let text = anomalies(&odd);
        for part in ["forks: 2", "losses: 1", "epoch 3", "disk_full", "odd_clock"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}
