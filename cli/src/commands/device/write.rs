//! Changes to devices: to one, or to each that a selector matches.
//!
//! A write is reported when it is done; after all writes, the command waits once for the read
//! model, so that the next command sees them.

use anyhow::{Error, Result};
use muster_api_types::WriteResult;
use muster_api_types::devices::{
    ChangeDevice, DeviceDetail, DeviceRegisteredResult, RegisterDevice,
};
use muster_client::{Client, Received, segment};
use muster_schemas::{DeviceId, Position, StreamVersion};
use serde::Serialize;

use crate::commands::changes;
use crate::commands::confirm::{Action, Confirm};
use crate::commands::target::{NamedDevice, Target};
use crate::exit::{self, PartialFailure, UsageError};
use crate::output::{self, line, note, optional};

const DEVICES: &str = "/api/v1/devices";

pub(super) async fn register(client: &Client, body: &RegisterDevice, json: bool) -> Result<()> {
    let done = client.post::<DeviceRegisteredResult>(DEVICES, body).await?;
    client.wait_until_listed(DEVICES, done.result.position).await;
    if json {
        return output::json(&done);
    }
    line(format!("registered {} as {}", body.name, done.id));
    Ok(())
}

/// Renames the device; `names` contains the new name.
pub(super) async fn rename(
    client: &Client,
    target: &Target,
    names: &[String],
    json: bool,
) -> Result<()> {
    let [name] = names else {
        return Err(UsageError("give one device and its new name".to_owned()).into());
    };
    let device = target.only(client).await?;
    let body = ChangeDevice { name: Some(name.parse()?), ..ChangeDevice::default() };
    let done = client.patch::<WriteResult>(&device.path(), &body).await?;
    client.wait_until_listed(DEVICES, done.position).await;
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
    body: &impl Serialize,
    json: bool,
) -> Result<()> {
    let mut report = Report { json, ..Report::default() };
    for device in target.to_write(client).await? {
        let changed = client.patch(&format!("{}{path}", device.path()), body).await;
        report.add(&device, changed, |done| format!("changed (version {})", done.version));
    }
    report.finish(client).await
}

/// Changes labels: `key=value` sets, `key-` removes.
pub(super) async fn label(
    client: &Client,
    target: &Target,
    arguments: &[String],
    json: bool,
) -> Result<()> {
    if arguments.is_empty() {
        let message = "give at least one label: key=value sets, key- removes";
        return Err(UsageError(message.to_owned()).into());
    }
    let labels = changes(arguments, |text| Ok(text.parse()?))?;
    change(client, target, "", &ChangeDevice { name: None, labels }, json).await
}

/// A request that is sent for each device.
pub(super) struct Request<'a> {
    /// The path below that of the device.
    pub(super) path: &'a str,
    /// The result that is printed for a device.
    pub(super) done: &'a str,
}

/// Sends a POST request for each device; `confirmation` has the verb of the question.
pub(super) async fn post_each(
    client: &Client,
    target: &Target,
    confirmation: Option<(Confirm, &str)>,
    request: Request<'_>,
    body: &impl Serialize,
    json: bool,
) -> Result<()> {
    let devices = target.to_write(client).await?;
    if let Some((confirm, verb)) = confirmation {
        confirm_devices(confirm, verb, &devices)?;
    }
    let mut report = Report { json, ..Report::default() };
    for device in devices {
        let result = client.post(&format!("{}{}", device.path(), request.path), body).await;
        report.add(&device, result, |_| request.done.to_owned());
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
        (Ok(found), _) => found,
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
    items: Vec<Item>,
    /// Newest position that was written.
    position: Position,
    failed: Vec<(String, Error)>,
}

impl Report {
    fn add(
        &mut self,
        device: &NamedDevice,
        done: Result<Received<WriteResult>>,
        describe: impl Fn(&WriteResult) -> String,
    ) {
        match done {
            Ok(done) => {
                self.position = self.position.max(done.position);
                if !self.json {
                    line(format!("{}: {}", device.name, describe(&done)));
                }
                let (version, position) = (Some(done.version), Some(done.position));
                self.items.push(Item { version, position, ..Item::new(device) });
            }
            Err(error) => {
                let text = Some(format!("{error:#}"));
                self.items.push(Item { error: text, ..Item::new(device) });
                self.failed.push((device.name.clone(), error));
            }
        }
    }

    async fn finish(mut self, client: &Client) -> Result<()> {
        if let [item] = self.items.as_mut_slice() {
            if let Some((_, error)) = self.failed.pop() {
                return Err(error);
            }
            if item.id.is_none() {
                // Printed with its id, by a read that is needed anyway.
                let path = format!("{DEVICES}/{}", segment(&item.name));
                let device = client.get_at::<DeviceDetail>(&path, &[], Some(self.position)).await;
                if let Ok(device) = device {
                    item.id = Some(device.summary.id);
                    item.name = optional(device.summary.name.as_ref());
                }
            } else {
                client.wait_until_listed(DEVICES, self.position).await;
            }
        } else {
            client.wait_until_listed(DEVICES, self.position).await;
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

/// Result of one device, as JSON; in alphabetical order, as in responses.
#[derive(Debug, Default, Serialize)]
struct Item {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<DeviceId>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<StreamVersion>,
}

impl Item {
    fn new(device: &NamedDevice) -> Self {
        Self { id: device.key.parse().ok(), name: device.name.clone(), ..Self::default() }
    }
}
