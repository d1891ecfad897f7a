//! A device's session: hello and welcome, acks, config updates.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{self, unique_map};
use crate::cose::Hash;
use crate::events::Cause;
use crate::ids::{DeviceId, ProjectId};
use crate::names::ConfigVars;
use crate::numbers::{ConfigVersion, Epoch, Seq};
use crate::timestamp::Timestamp;

/// A device's message after connecting; signed by its signing key, kind `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The device's epoch.
    pub epoch: Epoch,
    /// Random; the response repeats it.
    pub nonce: Uuid,
    /// The newest event that the device has recorded in this epoch; 0 when none.
    pub last_seq: Seq,
    /// The device's wall clock.
    pub time: Timestamp,
    /// The agent's version.
    pub agent_version: String,
    /// The version of the config that the device has applied; 0 when none.
    pub config_version: ConfigVersion,
    /// Set if the device needs a new epoch.
    pub new_epoch: Option<NewEpoch>,
    /// The newest event of this epoch that the log has acknowledged; 0 when none. Older agents do
    /// not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_seq: Option<Seq>,
}

/// A request for a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEpoch {
    /// The cause.
    pub cause: Cause,
    /// For a fork: the `seq` at which the device's branch differs from the log's.
    pub seq: Seq,
    /// For a fork: the hash of the device's own event at that `seq`, if it has one.
    pub hash: Option<Hash>,
    /// Random, stored until the new epoch is granted: the same id gets the same epoch.
    pub request: Uuid,
}

/// The response to a hello; signed by the operation key, kind `welcome`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch to continue in; differs from the hello's only if a new one was requested.
    pub epoch: Epoch,
    /// The hello's nonce.
    pub nonce: Uuid,
    /// The server's clock.
    pub time: Timestamp,
    /// The newest event of this epoch that the log has committed; 0 when none.
    pub committed_seq: Seq,
    /// The hash of that event; 32 zero bytes when none.
    pub committed_hash: Hash,
    /// The version of the config; 0 if none was ever set.
    pub config_version: ConfigVersion,
    /// All config variables that are not secret. Servers before 0.2 send the secret ones here too.
    #[serde(deserialize_with = "unique_map", default)]
    pub config: ConfigVars,
    /// The secret ones, if there are any: encoded [`ConfigVars`], sealed to the key that signed the
    /// hello, in the context [`config_context`].
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub sealed_config: Option<Vec<u8>>,
    /// Whether the log contains every event of the device that the broker holds. If false, a log that
    /// is behind the device may still catch up. Sent if the log is behind `confirmed_seq`, and if the
    /// broker responds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_caught_up: Option<bool>,
}

/// The log's progress; sent to the device after each commit, and whenever the device should check its
/// state. Not signed: it contains the hash of an event that only the device and the log know, and no
/// event is deleted because of it before 7 days have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The epoch.
    pub epoch: Epoch,
    /// The newest event of this epoch that the log has committed; 0 when none.
    pub seq: Seq,
    /// The hash of that event; 32 zero bytes when none.
    pub hash: Hash,
    /// Whether an event arrived that does not follow: send again from `seq + 1`.
    pub resend: bool,
}

/// The config variables of a device; signed by the operation key, kind `config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigUpdate {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The device's epoch.
    pub epoch: Epoch,
    /// The version of the config; one that is not newer than the device's is ignored.
    pub version: ConfigVersion,
    /// All config variables that are not secret. Servers before 0.2 send the secret ones here too.
    #[serde(deserialize_with = "unique_map", default)]
    pub vars: ConfigVars,
    /// The secret ones, if there are any: encoded [`ConfigVars`], sealed to the device's signing key
    /// in the context [`config_context`].
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub sealed_vars: Option<Vec<u8>>,
}

/// The context of sealed config variables.
#[must_use]
pub fn config_context(project: &ProjectId, device: DeviceId, version: ConfigVersion) -> Vec<u8> {
    codec::encode(&("muster/config/v1", project, device, version))
}
