//! Enumerations that may grow: a client keeps values that it does not know.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A value of an enumeration to which later servers may add variants.
///
/// A server converts from `T`, so it sends only known values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Open<T> {
    /// A value that this version knows.
    Known(T),
    /// A value of a later version.
    Unknown(Value),
}

impl<T> Open<T> {
    /// Returns the value, if this version knows it.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T> From<T> for Open<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: PartialEq> PartialEq<T> for Open<T> {
    fn eq(&self, other: &T) -> bool {
        self.known() == Some(other)
    }
}

/// As in JSON, without quotes; for an object, its `kind`.
impl<T: Serialize> fmt::Display for Open<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self).map_err(|_| fmt::Error)? {
            Value::String(text) => f.write_str(&text),
            other => match other.get("kind").and_then(Value::as_str) {
                Some(kind) => f.write_str(kind),
                None => other.fmt(f),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::RunState;
    use muster_schemas::events::Action;

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> Open<T> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn unknown_values_are_kept() {
        let known = read::<RunState>("\"timed_out\"");
        assert!(known == RunState::TimedOut);
        assert_eq!(known.to_string(), "timed_out");
        let unknown = read::<RunState>("\"postponed\"");
        assert_eq!(unknown.known(), None);
        assert_eq!(unknown.to_string(), "postponed");
        assert_eq!(serde_json::to_string(&unknown).unwrap(), "\"postponed\"");
    }

    #[test]
    fn unknown_kinds_of_objects_are_kept() {
        assert!(read::<Action>(r#"{"kind": "reboot"}"#) == Action::Reboot);
        let unknown = read::<Action>(r#"{"kind": "install", "package": "vim"}"#);
        assert_eq!(unknown.known(), None);
        assert_eq!(unknown.to_string(), "install");
    }
}
