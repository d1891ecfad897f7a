//! `muster device`: what there is, and what shall be.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::changes;
use crate::client::{Client, Connection, segment};
use crate::output::{self, ago, facts, line, pairs, percent, table, text};

#[derive(Subcommand, Debug)]
pub(crate) enum DeviceCommand {
    /// List devices
    List(ListArgs),
    /// Show all that is known of a device
    Show {
        /// Name or id
        device: String,
    },
    /// Make a device known before it enrolls
    Register {
        /// Its name
        name: String,
        /// Labels: key=value
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Give a device another name
    Rename {
        /// Name or id
        device: String,
        /// The new name
        name: String,
    },
    /// Set labels (key=value) and remove them (key-)
    Label {
        #[command(flatten)]
        target: Target,
        /// key=value sets, key- removes
        #[arg(required = true, last = false)]
        changes: Vec<String>,
    },
    /// Set config variables (key=value) and remove them (key-)
    ///
    /// A value is taken as a boolean, a whole number or a number when it reads as one; quotes make
    /// it text: port='"80"'.
    Config {
        #[command(flatten)]
        target: Target,
        /// key=value sets, key- removes; without any, the variables are shown
        changes: Vec<String>,
    },
    /// Delete a device; its history stays
    Delete {
        #[command(flatten)]
        target: Target,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only devices that match, such as env=prod,site in (a,b),!retired
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Only devices with this status: registered, online, offline, deleted
    #[arg(long)]
    status: Option<String>,
    /// Only devices whose name, host name or labels hold this
    #[arg(long)]
    search: Option<String>,
    /// By name, last_seen or created; - in front turns it round
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
}

/// Which devices a change is for.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// Name, id, or a label selector such as env=prod
    target: String,
}

impl Target {
    /// The devices' ids and names. What names nothing is an error.
    async fn resolve(&self, client: &Client) -> Result<Vec<(String, String)>> {
        let is_selector = self.target.contains(['=', '!', ',', '(', ' ']);
        let found = if is_selector {
            client.list("/api/v1/devices", &[("selector", self.target.clone())]).await?
        } else {
            vec![client.get(&format!("/api/v1/devices/{}", segment(&self.target)), &[]).await?]
        };
        if found.is_empty() {
            bail!("no device matches {}", self.target);
        }
        Ok(found.iter().map(|device| (text(&device["id"]), text(&device["name"]))).collect())
    }
}

pub(crate) async fn run(connection: Connection, command: DeviceCommand) -> Result<()> {
    let client = connection.client()?;
    let json = connection.json;
    match command {
        DeviceCommand::List(args) => list(&client, args, json).await,
        DeviceCommand::Show { device } => show(&client, &device, json).await,
        DeviceCommand::Register { name, labels } => {
            let labels = changes(&labels, |text| text.into())?;
            let body = json!({"name": name, "labels": labels});
            let done = client.post("/api/v1/devices", &body).await?;
            if json {
                output::json(&done)
            } else {
                told(&format!("registered {name} as {}", text(&done["id"])))
            }
        }
        DeviceCommand::Rename { device, name } => {
            let path = format!("/api/v1/devices/{}", segment(&device));
            let done = client.patch(&path, &json!({"name": name})).await?;
            if json { output::json(&done) } else { told(&format!("{device} is named {name} now")) }
        }
        DeviceCommand::Label { target, changes: words } => {
            let body = json!({"labels": changes(&words, |text| text.into())?});
            change(&client, &target, "", &body, json).await
        }
        DeviceCommand::Config { target, changes: words } if words.is_empty() => {
            for (id, name) in target.resolve(&client).await? {
                let device = client.get(&format!("/api/v1/devices/{id}"), &[]).await?;
                if json {
                    output::json(&device["config"])?;
                } else {
                    line(format!("{name}:"));
                    facts(&config_facts(&device["config"]));
                }
            }
            Ok(())
        }
        DeviceCommand::Config { target, changes: words } => {
            let parse = |text: &str| {
                serde_json::from_str::<Value>(text)
                    .ok()
                    .filter(|value| value.is_boolean() || value.is_number() || value.is_string())
                    .unwrap_or_else(|| Value::from(text))
            };
            let body = json!({"vars": changes(&words, parse)?});
            change(&client, &target, "/config", &body, json).await
        }
        DeviceCommand::Delete { target, yes } => delete(&client, &target, yes, json).await,
    }
}

fn told(text: &str) -> Result<()> {
    line(text);
    Ok(())
}

async fn list(client: &Client, args: ListArgs, json: bool) -> Result<()> {
    let mut query: Vec<(&str, String)> = Vec::new();
    for (name, value) in [
        ("selector", args.selector),
        ("status", args.status),
        ("search", args.search),
        ("sort", args.sort),
    ] {
        query.extend(value.map(|value| (name, value)));
    }
    let devices = client.list("/api/v1/devices", &query).await?;
    if json {
        return output::json(&devices);
    }
    print_devices(&devices);
    Ok(())
}

/// The list as a person reads it.
pub(super) fn print_devices(devices: &[Value]) {
    let rows = devices
        .iter()
        .map(|device| {
            let metrics = &device["metrics"];
            vec![
                text(&device["name"]),
                text(&device["status"]),
                ago(&device["last_seen"]),
                percent(&metrics["cpu_percent"]),
                percent(&metrics["memory_percent"]),
                percent(&metrics["disk_percent"]),
                percent(&metrics["battery_percent"]),
                text(&device["os"]),
                text(&device["arch"]),
                text(&device["agent_version"]),
                pairs(&device["labels"]),
            ]
        })
        .collect();
    let header =
        ["name", "status", "seen", "cpu", "mem", "disk", "batt", "os", "arch", "agent", "labels"];
    table(&header, rows, "no devices; `muster token create` makes a token that lets one join");
}

fn config_facts(config: &Value) -> Vec<(&str, String)> {
    let Some(vars) = config["vars"].as_object() else { return Vec::new() };
    vars.iter().map(|(key, value)| (key.as_str(), value.to_string())).collect()
}

fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_f64() else { return String::new() };
    format!("{:.1} GiB", bytes / f64::from(1 << 30))
}

async fn show(client: &Client, device: &str, json: bool) -> Result<()> {
    let found = client.get(&format!("/api/v1/devices/{}", segment(device)), &[]).await?;
    if json {
        return output::json(&found);
    }
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
    let applied = if config["version"].as_u64().unwrap_or(0) == 0 {
        String::new()
    } else {
        format!("version {}, applied {}", config["version"], config["applied_version"])
    };
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
        ("config", applied),
    ]);
    for (key, value) in config_facts(config) {
        line(format!("  {key} = {value}"));
    }
    Ok(())
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

async fn change(
    client: &Client,
    target: &Target,
    path: &str,
    body: &Value,
    json: bool,
) -> Result<()> {
    let mut done = Vec::new();
    for (id, name) in target.resolve(client).await? {
        let result = client.patch(&format!("/api/v1/devices/{id}{path}"), body).await?;
        if !json {
            line(format!("{name}: changed (version {})", result["version"]));
        }
        done.push(json!({"id": id, "name": name, "version": result["version"], "position": result["position"]}));
    }
    if json { output::json(&done) } else { Ok(()) }
}

async fn delete(client: &Client, target: &Target, yes: bool, json: bool) -> Result<()> {
    let devices = target.resolve(client).await?;
    if !yes {
        let names: Vec<&str> = devices.iter().map(|(_, name)| name.as_str()).collect();
        bail!("this deletes {} ({}); add --yes to do it", devices.len(), names.join(", "));
    }
    let mut done = Vec::new();
    for (id, name) in devices {
        let result = client.delete(&format!("/api/v1/devices/{id}")).await?;
        if !json {
            line(format!("deleted {name}; its history stays: muster events {id}"));
        }
        done.push(json!({"id": id, "name": name, "position": result["position"]}));
    }
    if json { output::json(&done) } else { Ok(()) }
}
