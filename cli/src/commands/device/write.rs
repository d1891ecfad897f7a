//! Changes to devices: to one, or to each that a selector matches.
//!
//! A write is reported when it is done; after all writes, the command waits once for the read
//! model, so that the next command sees them.

use anyhow::{Error, Result};
use serde_json::{Value, json};

use crate::client::{Client, segment};
use crate::commands::confirm::{Action, Confirm};
use crate::commands::target::{NamedDevice, Target};
use crate::exit::{self, PartialFailure};
use crate::output::{self, line, note, text};

const DEVICES: &str = "/api/v1/devices";

pub(super) async fn register(client: &Client, name: &str, body: &Value, json: bool) -> Result<()> {
    let done = client.post(DEVICES, body).await?;
    client.wait_until_listed(DEVICES, &done["position"]).await;
    if json {
        return output::json(&done);
    }
    line(format!("registered {name} as {}", text(&done["id"])));
    Ok(())
}

pub(super) async fn rename(client: &Client, target: &Target, name: &str, json: bool) -> Result<()> {
    let device = target.only(client).await?;
    let done = client.patch(&device.path(), &json!({"name": name})).await?;
    client.wait_until_listed(DEVICES, &done["position"]).await;
    if json {
        return output::json(&done);
    }
    line(format!("{} is now named {name}", device.name));
    Ok(())
}

/// Sends the same change to each device.
pub(super) async fn change(
    client: &Client,
    target: &Target,
    path: &str,
    body: &Value,
    json: bool,
) -> Result<()> {
    let mut report = Report { json, ..Report::default() };
    for device in target.to_write(client).await? {
        let changed = client.patch(&format!("{}{path}", device.path()), body).await;
        report.add(&device, changed, |done| format!("changed (version {})", done["version"]));
    }
    report.finish(client).await
}

/// Sends a POST request for each device; `ask` is the verb of the confirmation.
pub(super) async fn post_each(
    client: &Client,
    target: &Target,
    confirmation: Option<(Confirm, &str)>,
    (path, done): (&str, &str),
    body: &Value,
    json: bool,
) -> Result<()> {
    let devices = target.to_write(client).await?;
    if let Some((confirm, verb)) = confirmation {
        confirm_devices(confirm, verb, &devices)?;
    }
    let mut report = Report { json, ..Report::default() };
    for device in devices {
        let result = client.post(&format!("{}{path}", device.path()), body).await;
        report.add(&device, result, |_| done.to_owned());
    }
    report.finish(client).await
}

/// Asks for confirmation before these devices are changed.
fn confirm_devices(confirm: Confirm, verb: &str, devices: &[NamedDevice]) -> Result<()> {
    let names: Vec<String> = devices.iter().map(|device| device.name.clone()).collect();
    confirm.confirm(&Action { verb, noun: "device", names: &names })
}

pub(super) async fn delete(
    client: &Client,
    target: &Target,
    confirm: Confirm,
    json: bool,
) -> Result<()> {
    // With the id, which finds the device's history after its name was reused. The server refuses a
    // device that does not exist.
    let devices = match (target.find(client).await, target) {
        (Ok(found), _) => found.iter().map(NamedDevice::from_value).collect(),
        (Err(_), Target::One(_)) if confirm.is_given() => target.to_write(client).await?,
        (Err(error), _) => return Err(error),
    };
    confirm_devices(confirm, "delete", &devices)?;
    let mut report = Report { json, ..Report::default() };
    for device in devices {
        let deleted = client.delete(&device.path()).await;
        report.add(&device, deleted, |_| {
            format!("deleted; its history remains: muster events {}", device.key)
        });
    }
    report.finish(client).await
}

/// Result of each device.
#[derive(Debug, Default)]
struct Report {
    json: bool,
    items: Vec<Value>,
    /// Newest position that was written.
    position: u64,
    failed: Vec<(String, Error)>,
}

impl Report {
    fn add(
        &mut self,
        device: &NamedDevice,
        done: Result<Value>,
        describe: impl Fn(&Value) -> String,
    ) {
        match done {
            Ok(done) => {
                self.position = self.position.max(done["position"].as_u64().unwrap_or(0));
                if !self.json {
                    line(format!("{}: {}", device.name, describe(&done)));
                }
                let [version, position] = [&done["version"], &done["position"]];
                self.items.push(item(device, &json!({"version": version, "position": position})));
            }
            Err(error) => {
                self.items.push(item(device, &json!({"error": format!("{error:#}")})));
                self.failed.push((device.name.clone(), error));
            }
        }
    }

    async fn finish(mut self, client: &Client) -> Result<()> {
        if let [item] = self.items.as_mut_slice() {
            if let Some((_, error)) = self.failed.pop() {
                return Err(error);
            }
            if item["id"].is_null() {
                // Printed with its id, by a read that is needed anyway.
                let path = format!("{DEVICES}/{}", segment(&text(&item["name"])));
                if let Ok(device) = client.get_at(&path, &[], Some(self.position)).await {
                    item["id"] = device["id"].clone();
                    item["name"] = device["name"].clone();
                }
            } else {
                client.wait_until_listed(DEVICES, &self.position.into()).await;
            }
        } else {
            client.wait_until_listed(DEVICES, &self.position.into()).await;
        }
        if self.json {
            output::json(&self.items)?;
        }
        for (name, error) in &self.failed {
            note(format!("{name}: failed: {error:#}"));
        }
        let Some((_, first)) = self.failed.first() else { return Ok(()) };
        let code = exit::code(first);
        let is_same = self.failed.iter().all(|(_, error)| exit::code(error) == code);
        let code = if is_same { code } else { 1 };
        Err(PartialFailure { failed: self.failed.len(), total: self.items.len(), code }.into())
    }
}

/// Describes a selected device as JSON.
fn item(device: &NamedDevice, more: &Value) -> Value {
    let mut item = json!({"name": device.name});
    if device.key.parse::<muster_schemas::DeviceId>().is_ok() {
        item["id"] = device.key.clone().into();
    }
    if let (Some(item), Some(more)) = (item.as_object_mut(), more.as_object()) {
        item.extend(more.clone());
    }
    item
}
