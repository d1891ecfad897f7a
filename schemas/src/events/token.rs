//! Events of tokens: enrollment tokens of devices, and API tokens of clients.
//!
//! The secrets are never in an event, only their SHA-256: they are 256 random bits, so a slow hash
//! would add nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::unique_map;
use crate::cose::Hash;
use crate::ids::DeviceId;
use crate::names::{ConfigVars, LabelKey, Labels, TokenName};
use crate::timestamp::Timestamp;

/// The role of an API token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads the state of devices and their metrics.
    Viewer,
    /// Reads, and changes devices.
    Operator,
    /// Reads and changes all, tokens included.
    Admin,
    /// Reads all, the log and the tokens included; changes nothing.
    Auditor,
}

impl Role {
    /// The role's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a role.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a role; use viewer, operator, admin or auditor")]
pub struct InvalidRole(String);

impl FromStr for Role {
    type Err = InvalidRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Viewer, Self::Operator, Self::Admin, Self::Auditor]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidRole(text.chars().take(80).collect()))
    }
}

/// An enrollment token was created. Stream `token/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrollmentTokenCreated {
    /// The display name.
    pub name: TokenName,
    /// SHA-256 of the secret.
    pub secret: Hash,
    /// The expiry.
    pub expires_at: Timestamp,
    /// Maximum number of devices that may enroll with it.
    pub uses: u32,
    /// The labels of a device that enrolls with it.
    #[serde(deserialize_with = "unique_map", default)]
    pub labels: Labels,
    /// The only device that may enroll with it, if it was created for one.
    pub device: Option<DeviceId>,
    /// Whether an operator must accept each device that enrolls with it.
    #[serde(default)]
    pub approval: bool,
    /// The initial config variables of a new device.
    #[serde(deserialize_with = "unique_map", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: ConfigVars,
    /// Keys of the labels that a machine may bring; none when empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_labels: BTreeSet<LabelKey>,
}

/// A device enrolled with an enrollment token. Stream `token/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentTokenUsed {
    /// The device.
    pub device: DeviceId,
}

/// An enrollment token was revoked. Stream `token/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentTokenRevoked {}

/// An API token was created. Stream `token/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenCreated {
    /// The display name.
    pub name: TokenName,
    /// SHA-256 of the secret.
    pub secret: Hash,
    /// Its role.
    pub role: Role,
    /// The expiry; unlimited when absent.
    pub expires_at: Option<Timestamp>,
}

/// An API token was used. Stream `token/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenUsed {
    /// The address of the client.
    pub address: Option<String>,
}

/// An API token was revoked. Stream `token/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenRevoked {}
