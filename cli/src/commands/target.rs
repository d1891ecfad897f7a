//! Selects the devices of a command: one or several by name or id, or all that a selector matches.

use anyhow::Result;
use clap::Args;
use muster_api_types::devices::{DeviceDetail, DeviceSummary, Status};
use muster_api_types::metrics::WithoutFreshValue;
use muster_client::{Client, segment};
use muster_schemas::DeviceId;

use crate::exit::{NOT_FOUND, NotFound, UsageError, code};
use crate::output::{note, optional};

/// Flag of every command for devices.
#[derive(Args, Debug)]
pub(crate) struct Selected {
    /// Selector instead of DEVICE, such as env=prod or 'retired,site in (a,b)'; see `muster help
    /// selectors`
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

/// Selected devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The device with this name or id.
    One(String),
    /// The devices with these names or ids; all of them must exist.
    Named(Vec<String>),
    /// All devices that this selector matches.
    Matching(String),
}

impl Selected {
    /// Returns the target: `device`, or the selector. With `-l`, the argument at the position of
    /// the device is the first of the `rest`.
    pub(crate) fn target(
        self,
        device: Option<String>,
        rest: &mut Vec<String>,
    ) -> Result<Target, UsageError> {
        let Some(selector) = self.selector else {
            let device = device.ok_or_else(|| {
                UsageError("name a device, or give a selector with -l".to_owned())
            })?;
            return Ok(Target::read(device));
        };
        rest.splice(0..0, device);
        Ok(Target::Matching(selector))
    }

    /// Returns the target of a command without further positional arguments.
    pub(crate) fn target_alone(self, device: Option<String>) -> Result<Target, UsageError> {
        let mut rest = Vec::new();
        let target = self.target(device, &mut rest)?;
        match rest.first() {
            None => Ok(target),
            Some(word) => Err(UsageError(format!("give '{word}' or -l, not both"))),
        }
    }

    pub(crate) const fn is_given(&self) -> bool {
        self.selector.is_some()
    }
}

impl Target {
    /// Parses an argument: a name, an id, a list of them with commas, a name with wildcards, or a
    /// selector, if it contains other characters. A selector that could be a name needs `-l`.
    pub(crate) fn read(word: String) -> Self {
        if word.contains(['=', '!', '<', '>', '(', '[', '"', '\'', ' ']) {
            return Self::Matching(word);
        }
        if word.contains('*') {
            return Self::Matching(format!("name in ({word})"));
        }
        let mut names: Vec<String> =
            word.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        names.dedup();
        if names.len() > 1 { Self::Named(names) } else { Self::One(names.pop().unwrap_or(word)) }
    }

    /// Returns the devices. No matching device is an error; those that a selector left out because a
    /// value is missing are reported.
    pub(crate) async fn find(&self, client: &Client) -> Result<Vec<NamedDevice>> {
        let (devices, without_fresh_value) = self.select(client).await?;
        note_without_fresh_value(&without_fresh_value);
        Ok(devices)
    }

    async fn select(&self, client: &Client) -> Result<(Vec<NamedDevice>, Vec<WithoutFreshValue>)> {
        match self {
            Self::One(name) => Ok((vec![find_named(client, name).await?], Vec::new())),
            Self::Named(names) => Ok((find_all_named(client, names).await?, Vec::new())),
            Self::Matching(selector) => {
                let query = [("selector", selector.clone())];
                let list = client.items::<DeviceSummary>("/api/v1/devices", &query).await?;
                let without = list.without_fresh_value().to_vec();
                let found = list.complete()?;
                if found.is_empty() {
                    let mut problem = vec![format!("no device matches {selector}")];
                    problem.extend(without.iter().map(without_text));
                    return Err(NotFound(problem.join("; ")).into());
                }
                Ok((found.iter().map(|device| NamedDevice::new(device)).collect(), without))
            }
        }
    }

    /// Returns the names or ids to which a write is sent. A single name is not resolved: the server
    /// resolves it when it handles the write.
    pub(crate) async fn to_write(&self, client: &Client) -> Result<Vec<NamedDevice>> {
        if let Self::One(name) = self {
            return Ok(vec![NamedDevice { key: name.clone(), name: name.clone() }]);
        }
        self.find(client).await
    }

    /// Returns the names of the devices, for a question. A single one is not resolved.
    pub(crate) async fn names(&self, client: &Client) -> Result<Vec<String>> {
        if let Self::One(name) = self {
            return Ok(vec![name.clone()]);
        }
        let (devices, _) = self.select(client).await?;
        Ok(devices.into_iter().map(|device| device.name).collect())
    }

    /// Returns the name or id of the only selected device.
    pub(crate) async fn only(&self, client: &Client) -> Result<NamedDevice> {
        let mut found = self.to_write(client).await?;
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one),
            (_, more) => {
                let message = format!("this is for one device, and {} match", more + 1);
                Err(UsageError(message).into())
            }
        }
    }

    /// Returns the id of the only selected device.
    pub(crate) async fn only_id(&self, client: &Client) -> Result<DeviceId> {
        let one = self.only(client).await?;
        if let Ok(id) = one.key.parse() {
            return Ok(id);
        }
        Ok(client.get::<DeviceDetail>(&one.path(), &[]).await?.summary.id)
    }
}

async fn find_named(client: &Client, name: &str) -> Result<NamedDevice> {
    let path = format!("/api/v1/devices/{}", segment(name));
    let found = client.get::<DeviceDetail>(&path, &[]).await?;
    // The name of a deleted device is free; only its id leads to it.
    if is_deleted(&found.summary) && name.parse::<DeviceId>().is_err() {
        return Err(NotFound(format!("there is no device '{name}'")).into());
    }
    Ok(NamedDevice::new(&found.summary))
}

/// Whether a device was deleted.
pub(crate) fn is_deleted(device: &DeviceSummary) -> bool {
    device.status.known() == Some(&Status::Deleted)
}

/// Returns the devices with these names or ids, each once. The error names all unknown ones.
async fn find_all_named(client: &Client, names: &[String]) -> Result<Vec<NamedDevice>> {
    let mut found: Vec<NamedDevice> = Vec::with_capacity(names.len());
    let mut unknown = Vec::new();
    for name in names {
        match find_named(client, name).await {
            Ok(device) if found.iter().any(|other| other.key == device.key) => {}
            Ok(device) => found.push(device),
            Err(error) if code(&error) == NOT_FOUND => unknown.push(name.as_str()),
            Err(error) => return Err(error),
        }
    }
    match unknown.as_slice() {
        [] => Ok(found),
        [one] => Err(NotFound(format!("there is no device '{one}'")).into()),
        many => Err(NotFound(format!("there are no devices '{}'", many.join("', '"))).into()),
    }
}

/// Returns the name or id of the device that an argument names, or of the only one that it selects.
pub(crate) async fn one_device(client: &Client, word: String) -> Result<String> {
    Ok(Target::read(word).only(client).await?.key)
}

/// As [`one_device`], for an optional filter of a list.
pub(crate) async fn filter_device(client: &Client, word: Option<String>) -> Result<Option<String>> {
    match word {
        Some(word) => Ok(Some(one_device(client, word).await?)),
        None => Ok(None),
    }
}

/// Reports devices that a selector left out because a value is missing or stale.
pub(crate) fn note_without_fresh_value(found: &[WithoutFreshValue]) {
    found.iter().for_each(|one| note(without_text(one)));
}

fn without_text(found: &WithoutFreshValue) -> String {
    let WithoutFreshValue { metric, device_count, candidate_count } = found;
    let devices = if *candidate_count == 1 { "device" } else { "devices" };
    format!("{device_count} of {candidate_count} {devices} had no fresh value of {metric}")
}

/// A device to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedDevice {
    /// The id, if it was resolved, otherwise the name.
    pub(crate) key: String,
    /// Name for messages.
    pub(crate) name: String,
}

impl NamedDevice {
    pub(crate) fn new(device: &DeviceSummary) -> Self {
        Self { key: device.id.to_string(), name: optional(device.name.as_ref()) }
    }

    /// Returns the device's path in the API.
    pub(crate) fn path(&self) -> String {
        format!("/api/v1/devices/{}", segment(&self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_a_name_an_id_or_a_selector() {
        let read = |selector: Option<&str>, device: Option<&str>, rest: &[&str]| {
            let mut rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
            let selected = Selected { selector: selector.map(str::to_owned) };
            let target = selected.target(device.map(str::to_owned), &mut rest).ok();
            (target, rest.join(" "))
        };
        let one = |name: &str| Some(Target::One(name.to_owned()));
        let named = |names: &[&str]| {
            Some(Target::Named(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        let matching = |selector: &str| Some(Target::Matching(selector.to_owned()));
        for (selector, device, rest, expected) in [
            (None, Some("vm"), &["a=b"][..], (one("vm"), "a=b")),
            (None, Some("env=prod"), &["a=b"], (matching("env=prod"), "a=b")),
            (None, Some("!retired"), &[], (matching("!retired"), "")),
            (None, Some("disk[/data].x>5"), &[], (matching("disk[/data].x>5"), "")),
            (None, Some("a,b.c,a"), &["x=y"], (named(&["a", "b.c", "a"]), "x=y")),
            (None, Some("vm,"), &[], (one("vm"), "")),
            (None, Some("robot-*"), &[], (matching("name in (robot-*)"), "")),
            (None, Some("robot-*,vm"), &[], (matching("name in (robot-*,vm)"), "")),
            // A selector that is a bare key needs -l, because it could be a name.
            (Some("retired"), Some("a=b"), &["c-"], (matching("retired"), "a=b c-")),
            (Some("retired"), None, &[], (matching("retired"), "")),
            (None, None, &[], (None, "")),
        ] {
            assert_eq!(read(selector, device, rest), (expected.0, expected.1.to_owned()));
        }
        let both = Selected { selector: Some("a".to_owned()) };
        assert!(both.target_alone(Some("vm".to_owned())).is_err());
    }
}
