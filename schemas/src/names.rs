//! Rules for text that users write: device names, labels, config variables.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Labels of a device: key to value.
pub type Labels = BTreeMap<LabelKey, LabelValue>;

/// Config variables of a device: key to typed value.
pub type ConfigVars = BTreeMap<ConfigKey, ConfigValue>;

/// Maximum number of labels on one device.
pub const MAX_LABELS: usize = 64;
/// Maximum number of config variables on one device.
pub const MAX_CONFIG_VARS: usize = 256;
/// Maximum length of a config variable's text, in bytes.
pub const MAX_CONFIG_TEXT: usize = 4096;

/// A text violates the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}' {rule}")]
pub struct InvalidName {
    /// The text, truncated to 80 characters.
    pub value: String,
    /// The rule.
    pub rule: &'static str,
}

fn check(text: &str, fits: bool, rule: &'static str) -> Result<(), InvalidName> {
    if fits { Ok(()) } else { Err(InvalidName { value: text.chars().take(80).collect(), rule }) }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $rule:tt, $max:tt, $fits:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The rule, as the rest of a sentence that starts with the value.
            pub const RULE: &'static str = $rule;

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let fits: fn(&str) -> bool = $fits;
                check(text, text.len() <= $max && fits(text), Self::RULE)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

    };
}

impl DeviceName {
    /// Names that are parts of paths of the API.
    const RESERVED: [&'static str; 2] = ["bulk", "stream"];

    /// Checks a name that a device gets now: it is not the form of an id, nor reserved. Names that
    /// were given by earlier releases may be.
    ///
    /// # Errors
    /// With the violated rule.
    pub fn check_new(&self) -> Result<(), InvalidName> {
        check(&self.0, !self.is_id(), "has the form of an id, so it is not a device name")?;
        let is_free = !Self::RESERVED.contains(&self.as_str());
        check(&self.0, is_free, "is reserved for the API, so it is not a device name")
    }

    fn is_id(&self) -> bool {
        self.0.parse::<uuid::Uuid>().is_ok()
    }
}

fn starts_and_ends_alphanumeric(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

checked_text! {
    /// A device's name, unique in its project: as a host name, dots allowed.
    DeviceName,
    "is not a device name: use 1 to 63 of a-z, 0-9, '-' and '.', starting and ending with a-z or \
     0-9",
    63,
    |text| starts_and_ends_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}
checked_text! {
    /// A label's key.
    LabelKey,
    "is not a label key: use 1 to 63 of A-Z, a-z, 0-9, '-', '_', '.' and '/', starting and ending \
     with A-Z, a-z or 0-9",
    63,
    |text| starts_and_ends_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}
checked_text! {
    /// A label's value; may be empty.
    LabelValue,
    "is not a label value: use up to 128 of A-Z, a-z, 0-9, '-', '_', '.', ':', '/', '+' and '@'",
    128,
    |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+@".contains(&b))
}
checked_text! {
    /// A config variable's key.
    ConfigKey,
    "is not a config key: use 1 to 63 of A-Z, a-z, 0-9, '_', '-' and '.', starting and ending \
     with A-Z, a-z or 0-9",
    63,
    |text| starts_and_ends_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
checked_text! {
    /// A token's display name.
    TokenName,
    "is not a token name: use 1 to 80 printable characters, no space at either end",
    80,
    |text| !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control)
}
checked_text! {
    /// A project's display name; its id is permanent.
    ProjectTitle,
    "is not a project's title: use 1 to 80 printable characters, no space at either end",
    80,
    |text| !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control)
}

/// A config variable's value; its type is preserved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConfigValue {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text, up to 4096 bytes.
    Text(String),
}

impl ConfigValue {
    /// Checks the value's limits: text up to [`MAX_CONFIG_TEXT`], finite numbers.
    ///
    /// # Errors
    /// With the violated rule.
    pub fn check(&self) -> Result<(), InvalidName> {
        match self {
            Self::Text(text) => {
                check(text, text.len() <= MAX_CONFIG_TEXT, "is longer than 4096 bytes")
            }
            Self::Float(number) => {
                check(&number.to_string(), number.is_finite(), "is not a finite number")
            }
            Self::Bool(_) | Self::Int(_) => Ok(()),
        }
    }
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// Derives a device name from a host name: lower case, invalid characters become `-`; `device` when
/// nothing is left.
#[must_use]
pub fn device_name_from_host(host: &str) -> DeviceName {
    let mapped: String = host
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .take(63)
        .collect();
    let trimmed = mapped.trim_matches(['-', '.']);
    match trimmed.parse::<DeviceName>() {
        Ok(name) if name.check_new().is_ok() => name,
        Ok(DeviceName(name)) => DeviceName(format!("device-{name}")),
        Err(_) => DeviceName("device".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["a", "robot-7", "a.b.c", &"x".repeat(63)] {
            assert!(good.parse::<DeviceName>().is_ok(), "{good:?} was refused");
        }
        for bad in ["", "-a", "a-", ".", "Robot", "a_b", "a b", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn any_host_name_converts_to_a_device_name() {
        for (host, name) in
            [("Robot_7", "robot-7"), ("---", "device"), ("", "device"), ("ü.local", "local")]
        {
            assert_eq!(device_name_from_host(host).as_str(), name);
        }
        assert_eq!(device_name_from_host(&"é".repeat(200)).as_str(), "device");
    }

    #[test]
    fn ids_and_parts_of_paths_are_no_new_names() {
        let id = "0198c0de-7000-7abc-8def-0123456789ab";
        for bad in [id, &id.replace('-', ""), "stream", "bulk"] {
            let name: DeviceName = bad.parse().unwrap();
            assert!(name.check_new().is_err(), "{bad}");
            assert_eq!(device_name_from_host(bad).as_str(), format!("device-{bad}"));
        }
        let good: DeviceName = "0198c0de-7000-7abc-8def".parse().unwrap();
        assert_eq!(good.check_new(), Ok(()));
    }

    #[test]
    fn config_values_keep_their_type() {
        for value in [
            ConfigValue::Bool(true),
            ConfigValue::Int(3),
            ConfigValue::Float(0.5),
            ConfigValue::Float(3.0),
            ConfigValue::Text("3".into()),
        ] {
            let bytes = crate::codec::encode(&value);
            assert_eq!(crate::codec::decode::<ConfigValue>(&bytes).ok(), Some(value));
        }
    }
}
