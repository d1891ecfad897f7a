//! `muster device`: devices and their desired state.

mod request;
mod show;
mod write;

use anyhow::Result;
use clap::{Args, Subcommand};
use muster_api_types::devices::{
    AcceptDevice, DeviceSummary, RegisterDevice, RejectDevice, RevokeDevice, RotateKey, SetConfig,
};
use muster_api_types::metrics::SummaryMetric;
use muster_client::{Client, Received};

use super::confirm::Confirm;
use super::target::{Selected, note_without_fresh_value};
use super::{changes, config_changes, items, values};
use crate::connection::Connection;
use crate::output::{self, ago, optional, pairs, percent, table, text};

/// Path that accepts a device, and the verb that reports it.
const ACCEPT: write::Request<'_> = write::Request { path: "/accept", done: "accepted" };
const REJECT: write::Request<'_> = write::Request { path: "/reject", done: "rejected" };
const REVOKE: write::Request<'_> = write::Request {
    path: "/revoke",
    done: "revoked; it can enroll again with a token made for it",
};
const ROTATE: write::Request<'_> = write::Request {
    path: "/rotate-key",
    done: "key rotation requested; `device show` shows the new fingerprint",
};

#[derive(Subcommand, Debug)]
pub(crate) enum DeviceCommand {
    /// List devices
    ///
    /// Metrics in parentheses are stale: older than three of the intervals at which the device
    /// reports them.
    List(ListArgs),
    /// Show the details of devices
    Show {
        /// Names or ids (a,b), or a selector such as env=prod
        device: Option<String>,
        #[command(flatten)]
        selected: Selected,
    },
    /// Register a device before it enrolls
    Register {
        /// Name of the device
        name: String,
        /// Labels: key=value
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Fingerprint of its key, as printed by `muster-agent fingerprint`
        #[arg(long)]
        fingerprint: Option<String>,
    },
    /// Accept a pending enrollment
    Accept {
        /// Names or ids (a,b), or a selector
        device: Option<String>,
        /// Device to replace (name or id), whose name, labels, config and history are kept
        #[arg(long, value_name = "DEVICE")]
        replaces: Option<String>,
        #[command(flatten)]
        selected: Selected,
    },
    /// Reject a pending enrollment
    Reject {
        /// Names or ids (a,b), or a selector
        device: Option<String>,
        /// Reason, recorded in the log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        selected: Selected,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Revoke a device's keys; it stays disconnected until it enrolls again
    Revoke {
        /// Names or ids (a,b), or a selector
        device: Option<String>,
        /// Reason, recorded in the log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        selected: Selected,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Rotate a device's signing key
    RotateKey {
        /// Names or ids (a,b), or a selector
        device: Option<String>,
        #[command(flatten)]
        selected: Selected,
    },
    /// Rename a device
    Rename {
        /// Name, id, or a selector that matches one device
        device: Option<String>,
        /// New name
        name: Option<String>,
        #[command(flatten)]
        selected: Selected,
    },
    /// Set labels (key=value) and remove them (key-)
    Label {
        /// Names or ids (a,b), or a selector such as env=prod
        device: Option<String>,
        /// key=value sets, key- removes
        changes: Vec<String>,
        #[command(flatten)]
        selected: Selected,
    },
    /// Set config variables (key=value) and remove them (key-)
    ///
    /// A value that parses as a boolean or a number has that type; quotes make it text:
    /// port='"80"'. The value of a variable whose name starts with secret. is shown only to the
    /// device, and is read from a file: secret.db=@FILE, or @- for standard input.
    Config {
        /// Names or ids (a,b), or a selector such as env=prod
        device: Option<String>,
        /// key=value sets, key- removes; without changes, the variables are printed
        changes: Vec<String>,
        #[command(flatten)]
        selected: Selected,
    },
    #[command(flatten)]
    Ask(request::RequestCommand),
    /// Delete a device; its history is kept
    Delete {
        /// Names or ids (a,b), or a selector such as env=prod
        device: Option<String>,
        #[command(flatten)]
        selected: Selected,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// List only devices that match, such as 'env=prod and mem.available > 500Mi'; see `muster help
    /// selectors`
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// List only registered, pending, online, offline, revoked or deleted devices
    #[arg(long)]
    status: Option<String>,
    /// List only devices whose name, host name or labels contain this text
    #[arg(long)]
    search: Option<String>,
    /// Sort by name, last_seen_at or created_at; a leading - reverses the order
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
}

pub(crate) async fn run(connection: Connection, command: DeviceCommand) -> Result<()> {
    let json = connection.json;
    let client = || connection.client();
    match command {
        DeviceCommand::Ask(request_args) => request::run(connection, request_args).await,
        DeviceCommand::List(args) => list(&client()?, args, json).await,
        DeviceCommand::Show { device, selected } => {
            show::show(&client()?, &selected.target_alone(device)?, json).await
        }
        DeviceCommand::Register { name, labels, fingerprint } => {
            let labels = values(changes(&labels, |text| Ok(text.parse()?))?)?;
            let fingerprint = fingerprint.map(|text| text.parse()).transpose()?;
            let body = RegisterDevice { name: name.parse()?, labels, fingerprint };
            write::register(&client()?, &body, json).await
        }
        DeviceCommand::Accept { device, replaces, selected } => {
            let body = AcceptDevice { replaces };
            write::post_each(&client()?, &selected.target_alone(device)?, None, ACCEPT, &body, json)
                .await
        }
        DeviceCommand::Reject { device, reason, selected, confirm } => {
            let body = RejectDevice { reason };
            let ask = Some((confirm, "reject"));
            write::post_each(&client()?, &selected.target_alone(device)?, ask, REJECT, &body, json)
                .await
        }
        DeviceCommand::Revoke { device, reason, selected, confirm } => {
            let body = RevokeDevice { reason };
            let ask = Some((confirm, "revoke"));
            write::post_each(&client()?, &selected.target_alone(device)?, ask, REVOKE, &body, json)
                .await
        }
        DeviceCommand::RotateKey { device, selected } => {
            let target = selected.target_alone(device)?;
            write::post_each(&client()?, &target, None, ROTATE, &RotateKey {}, json).await
        }
        DeviceCommand::Rename { device, name, selected } => {
            let mut rest = name.into_iter().collect();
            let target = selected.target(device, &mut rest)?;
            write::rename(&client()?, &target, &rest, json).await
        }
        DeviceCommand::Label { device, changes: mut arguments, selected } => {
            let target = selected.target(device, &mut arguments)?;
            write::label(&client()?, &target, &arguments, json).await
        }
        DeviceCommand::Config { device, changes: mut arguments, selected } => {
            let target = selected.target(device, &mut arguments)?;
            if arguments.is_empty() {
                return show::config(&client()?, &target, json).await;
            }
            let body = SetConfig { vars: config_changes(&arguments)? };
            write::change(&client()?, &target, "/config", &body, json).await
        }
        DeviceCommand::Delete { device, selected, confirm } => {
            write::delete(&client()?, &selected.target_alone(device)?, confirm, json).await
        }
    }
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
    let devices = items(client, "/api/v1/devices", &query, json).await?;
    note_without_fresh_value(devices.without_fresh_value());
    if json {
        return output::json(&devices);
    }
    print_devices(&devices);
    Ok(())
}

/// Prints the list as a table; stale values are in parentheses.
pub(crate) fn print_devices(devices: &[Received<DeviceSummary>]) {
    let rows = devices
        .iter()
        .map(|device| {
            let metrics = device.metrics.clone().unwrap_or_default();
            let value = |number: Option<f64>, metric: SummaryMetric| {
                let is_stale = number.is_some() && metrics.stale.contains(&metric.into());
                if is_stale { format!("({})", percent(number)) } else { percent(number) }
            };
            vec![
                optional(device.name.as_ref()),
                text(&device.status),
                device.last_seen_at.map(ago).unwrap_or_default(),
                value(metrics.cpu_percent, SummaryMetric::Cpu),
                value(metrics.memory_percent, SummaryMetric::Memory),
                value(metrics.disk_percent, SummaryMetric::Disk),
                value(metrics.battery_percent, SummaryMetric::Battery),
                optional(device.os.as_ref()),
                optional(device.arch.as_ref()),
                optional(device.agent_version.as_ref()),
                pairs(&device.labels),
            ]
        })
        .collect();
    let header =
        ["name", "status", "seen", "cpu", "mem", "disk", "batt", "os", "arch", "agent", "labels"];
    table(&header, rows, "no devices; `muster token create` creates a token to enroll one");
}
