//! Which devices a command is for: one by its name or id, or all that a label selector matches.

use anyhow::Result;
use clap::Args;
use muster_schemas::DeviceId;
use serde_json::Value;

use crate::client::{Client, segment};
use crate::exit::{Misused, NotFound};
use crate::output::text;

/// The flag that every command for devices takes.
#[derive(Args, Debug)]
pub(crate) struct Selected {
    /// All devices that match, such as env=prod or 'retired,site in (a,b)', in place of DEVICE
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

/// Which devices are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The one with this name or id.
    One(String),
    /// All that this selector matches.
    Matching(String),
}

impl Selected {
    /// What the command line means: `device`, or the selector. With `-l`, the word in the place of
    /// the device is the first of the `rest`.
    pub(crate) fn target(
        self,
        device: Option<String>,
        rest: &mut Vec<String>,
    ) -> Result<Target, Misused> {
        let Some(selector) = self.selector else {
            let device = device.ok_or_else(|| {
                Misused("name a device, or give a label selector with -l".to_owned())
            })?;
            return Ok(Target::read(device));
        };
        rest.splice(0..0, device);
        Ok(Target::Matching(selector))
    }

    /// For a command that takes nothing but devices.
    pub(crate) fn target_alone(self, device: Option<String>) -> Result<Target, Misused> {
        let mut rest = Vec::new();
        let target = self.target(device, &mut rest)?;
        match rest.first() {
            None => Ok(target),
            Some(word) => Err(Misused(format!("give '{word}' or -l, not both"))),
        }
    }

    pub(crate) const fn is_given(&self) -> bool {
        self.selector.is_some()
    }
}

impl Target {
    /// What no name and no id can hold makes it a selector.
    pub(crate) fn read(word: String) -> Self {
        let is_selector = word.contains(['=', '!', '<', '>', ',', '(', ' ']);
        if is_selector { Self::Matching(word) } else { Self::One(word) }
    }

    /// The devices as lists show them. What names nothing is an error.
    pub(crate) async fn find(&self, client: &Client) -> Result<Vec<Value>> {
        match self {
            Self::One(name) => {
                let path = format!("/api/v1/devices/{}", segment(name));
                Ok(vec![client.get(&path, &[]).await?])
            }
            Self::Matching(selector) => {
                let query = [("selector", selector.clone())];
                let found = client.list("/api/v1/devices", &query).await?;
                if found.is_empty() {
                    return Err(NotFound(format!("no device matches {selector}")).into());
                }
                Ok(found)
            }
        }
    }

    /// The names or ids by which a write reaches the devices. A single one is not looked up: the
    /// write itself knows best who has the name now.
    pub(crate) async fn to_write(&self, client: &Client) -> Result<Vec<Named>> {
        if let Self::One(name) = self {
            return Ok(vec![Named { key: name.clone(), name: name.clone() }]);
        }
        let found = self.find(client).await?;
        Ok(found.iter().map(Named::of).collect())
    }

    /// The names of the devices. A single one is not looked up.
    pub(crate) async fn names(&self, client: &Client) -> Result<Vec<String>> {
        Ok(self.to_write(client).await?.into_iter().map(|device| device.name).collect())
    }

    /// The name or id of the only device that is meant.
    pub(crate) async fn only(&self, client: &Client) -> Result<Named> {
        let mut found = self.to_write(client).await?;
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one),
            (_, more) => {
                let words = format!("this is for one device, and {} match", more + 1);
                Err(Misused(words).into())
            }
        }
    }

    /// The id of the only device that is meant.
    pub(crate) async fn only_id(&self, client: &Client) -> Result<String> {
        let one = self.only(client).await?;
        if one.key.parse::<DeviceId>().is_ok() {
            return Ok(one.key);
        }
        let path = format!("/api/v1/devices/{}", segment(&one.key));
        Ok(text(&client.get(&path, &[]).await?["id"]))
    }
}

/// A device that a write is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its id when that is known, else its name.
    pub(crate) key: String,
    /// What it is called when it is spoken of.
    pub(crate) name: String,
}

impl Named {
    pub(crate) fn of(device: &Value) -> Self {
        Self { key: text(&device["id"]), name: text(&device["name"]) }
    }

    /// Its path in the API.
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
        let matching = |selector: &str| Some(Target::Matching(selector.to_owned()));
        for (selector, device, rest, expected) in [
            (None, Some("vm"), &["a=b"][..], (one("vm"), "a=b")),
            (None, Some("env=prod"), &["a=b"], (matching("env=prod"), "a=b")),
            (None, Some("!retired"), &[], (matching("!retired"), "")),
            // A bare key needs -l: it could be a name.
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
