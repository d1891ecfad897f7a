//! Ids: of projects, devices, tokens and operations.
//!
//! Generating ids needs randomness and a clock, so callers do it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The reserved log for server-wide events.
pub const SYSTEM_PROJECT: &str = "system";
/// The project that exists from the start.
pub const DEFAULT_PROJECT: &str = "default";

/// A project's name, which is its id: `[a-z][a-z0-9-]*`, 1 to 40 characters, no `-` at the end.
///
/// Invariant: never contains `.`, `*` or `>`, which would widen a NATS permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectId(String);

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a project name.
    #[error(
        "'{0}' is not a project name: use 1 to 40 of a-z, 0-9 and '-', starting with a-z, not \
         ending with '-'"
    )]
    Project(String),
    /// Not a UUID.
    #[error("'{0}' is not an id; use a UUID such as 0198c0de-7000-7abc-8def-0123456789ab")]
    Uuid(String),
}

impl ProjectId {
    /// The project that exists from the start.
    #[must_use]
    pub fn default_project() -> Self {
        Self(DEFAULT_PROJECT.to_owned())
    }

    /// The reserved log for server-wide events.
    #[must_use]
    pub fn system() -> Self {
        Self(SYSTEM_PROJECT.to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the reserved log for server-wide events.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0 == SYSTEM_PROJECT
    }
}

impl FromStr for ProjectId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=40).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::Project(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for ProjectId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProjectId> for String {
    fn from(id: ProjectId) -> Self {
        id.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Only the hyphenated form: one id, one text.
                if text.len() != 36 {
                    return Err(InvalidId::Uuid(text.chars().take(80).collect()));
                }
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| InvalidId::Uuid(text.chars().take(80).collect()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

    };
}

uuid_id! {
    /// A device: a UUIDv7, assigned by the server at the registration.
    DeviceId
}
uuid_id! {
    /// An enrollment token or an API token.
    TokenId
}
uuid_id! {
    /// An operation: a request to devices. A UUIDv7.
    OperationId
}
uuid_id! {
    /// A session on a device; it outlives the channels that are attached to it. A UUIDv7.
    SessionId
}
uuid_id! {
    /// A channel: one encrypted byte stream between a server and an agent.
    ChannelId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_name_cannot_contain_subject_separators_or_wildcards() {
        for bad in ["", "a.b", "*", ">", "A", "a b", "-a", "a-", "1a", "ä", &"a".repeat(41)] {
            assert!(bad.parse::<ProjectId>().is_err(), "{bad:?} was taken");
        }
        for good in ["a", "default", "system", "plant-7", &"a".repeat(40)] {
            assert!(good.parse::<ProjectId>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn an_id_has_one_text_representation() {
        assert!("0198c0de-7000-7abc-8def-0123456789ab".parse::<DeviceId>().is_ok());
        for bad in
            ["", "*", "0198c0de70007abc8def0123456789ab", "{0198c0de-7000-7abc-8def-0123456789a}"]
        {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?} was taken");
        }
    }
}
