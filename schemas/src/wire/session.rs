//! A device's session: hello and its answer, acks, config updates.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::unique_map;
use crate::cose::Hash;
use crate::events::Cause;
use crate::ids::{DeviceId, ProjectId};
use crate::names::ConfigVars;
use crate::timestamp::Timestamp;

/// What a device says after connecting; sealed by its signing key, kind `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch that the device is in.
    pub epoch: u64,
    /// Random; the answer repeats it.
    pub nonce: Uuid,
    /// The newest event that the device has recorded in this epoch; 0 when none.
    pub last_seq: u64,
    /// The device's wall clock.
    pub time: Timestamp,
    /// The agent's version.
    pub agent_version: String,
    /// The version of the config that the device works by; 0 when none.
    pub config_version: u64,
    /// Set when the device must go on in a new epoch.
    pub new_epoch: Option<NewEpoch>,
}

/// Why a device asks for a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEpoch {
    /// Why.
    pub cause: Cause,
    /// For a fork: the place at which the device's branch differs from the log's.
    pub seq: u64,
    /// For a fork: the hash of the device's own event there, when it has one.
    pub hash: Option<Hash>,
    /// Random, kept until the new epoch is there: asked again, the same epoch is given.
    pub request: Uuid,
}

/// The answer to a hello; sealed by the operation key, kind `welcome`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch to go on in; another than the hello's only when a new one was asked for.
    pub epoch: u64,
    /// The hello's nonce.
    pub nonce: Uuid,
    /// The server's clock.
    pub time: Timestamp,
    /// The newest event of this epoch that the log has committed; 0 when none.
    pub committed_seq: u64,
    /// The hash of that event; 32 zero bytes when none.
    pub committed_hash: Hash,
    /// The version of the config; 0 when none was ever set.
    pub config_version: u64,
    /// The config variables, all of them.
    #[serde(deserialize_with = "unique_map", default)]
    pub config: ConfigVars,
}

/// How far the log has committed; sent to the device after each commit, and whenever the device
/// should look at where it stands. Not sealed: it holds the hash of an event that only the device
/// and the log know, and nothing is let go on its word alone before 7 days have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The epoch.
    pub epoch: u64,
    /// The newest event of this epoch that the log has committed; 0 when none.
    pub seq: u64,
    /// The hash of that event; 32 zero bytes when none.
    pub hash: Hash,
    /// True when something after it came that does not follow: send again from `seq + 1`.
    pub resend: bool,
}

/// The config variables of a device; sealed by the operation key, kind `config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigUpdate {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch that the device is in.
    pub epoch: u64,
    /// The version of the config; one that is not newer than the device's is ignored.
    pub version: u64,
    /// The config variables, all of them.
    #[serde(deserialize_with = "unique_map", default)]
    pub vars: ConfigVars,
}
