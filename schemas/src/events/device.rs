//! What happens to a device: its lifecycle, its settings, its presence, its history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::codec::unique_map;
use crate::cose::Hash;
use crate::ids::{DeviceId, TokenId};
use crate::names::{ConfigKey, ConfigVars, DeviceName, LabelKey, Labels};
use crate::timestamp::Timestamp;

/// An operator, or an enrollment, made a device known. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRegistered {
    /// The device's name, unique in its project.
    pub name: DeviceName,
    /// The labels that it starts with.
    #[serde(deserialize_with = "unique_map", default)]
    pub labels: Labels,
    /// The thumbprint of the key that it will come with, when it was made known beforehand: whoever
    /// enrolls with that key is this device.
    pub fingerprint: Option<Hash>,
}

/// A machine wants to be a device, and waits for an operator. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEnrollmentRequested {
    /// The signing key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    #[schema(value_type = Vec<u8>)]
    pub signing_key: Vec<u8>,
    /// The signing key's thumbprint (RFC 9679).
    pub fingerprint: Hash,
    /// The NATS user key, `U…`.
    pub nats_key: String,
    /// The enrollment token that was used.
    pub token: Option<TokenId>,
    /// The host's own name.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id, under a prefix of muster's own.
    pub machine: Option<Hash>,
    /// SHA-256 of each network card's address, under a prefix of muster's own.
    #[serde(default)]
    pub macs: Vec<Hash>,
    /// The device that has the same machine id or network card, if there is one.
    pub like: Option<DeviceId>,
}

/// An operator let a waiting machine in. Stream `device/<id>` of the one that waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEnrollmentAccepted {
    /// The device that it is from now on, when it is one that was known already.
    pub replaces: Option<DeviceId>,
}

/// An operator sent a waiting machine away. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEnrollmentRejected {
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// A device's keys are worth nothing any more; it stays, with its name and settings, until it
/// enrolls again. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRevoked {
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// A device's keys were bound to it. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEnrolled {
    /// The epoch that begins with this enrollment; higher than any before.
    pub epoch: u64,
    /// The signing key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    #[schema(value_type = Vec<u8>)]
    pub signing_key: Vec<u8>,
    /// The signing key's thumbprint (RFC 9679).
    pub fingerprint: Hash,
    /// The NATS user key, `U…`.
    pub nats_key: String,
    /// The enrollment token that was used.
    pub token: Option<TokenId>,
    /// The host's own name when it enrolled.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id, under a prefix of muster's own; tells likeness, proves nothing.
    pub machine: Option<Hash>,
    /// SHA-256 of each network card's address, under a prefix of muster's own; likewise.
    #[serde(default)]
    pub macs: Vec<Hash>,
}

/// Why a device went on in a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its branch of the history is not the one in the log.
    Fork,
    /// It lost events that the log still misses.
    HistoryLost,
}

/// A device may go on in a new epoch, with the same keys. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEpochGranted {
    /// The new epoch; `seq` starts at 1.
    pub epoch: u64,
    /// The epoch that the device was in.
    pub previous: u64,
    /// Why.
    pub cause: Cause,
}

/// Two branches of one device's history exist: a cloned card, or a restored image.
/// Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceForked {
    /// The epoch in which the branches part.
    pub epoch: u64,
    /// The first place at which both branches have an event, and not the same one.
    pub seq: u64,
    /// The hash of the event that the log has there; absent when the log has gone beyond it.
    pub logged: Option<Hash>,
    /// The hash of the event that the other branch has there; absent when it has none.
    pub other: Option<Hash>,
    /// The epoch in which the other branch goes on. The same as `epoch` when it does not: it was an
    /// old copy, with a key that is worth nothing any more.
    pub continues_in: u64,
}

/// A device has a new name. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRenamed {
    /// The new name.
    pub name: DeviceName,
    /// The name before.
    pub previous: DeviceName,
}

/// Labels were set or removed. Stream `device/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceLabelsChanged {
    /// Labels that have a new value.
    #[serde(deserialize_with = "unique_map", default)]
    pub set: Labels,
    /// Labels that are gone.
    #[serde(default)]
    pub removed: Vec<LabelKey>,
}

/// Config variables were set or removed. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceConfigSet {
    /// Counts the changes of this device's config, from 1.
    pub version: u64,
    /// Variables that have a new value.
    #[serde(deserialize_with = "unique_map", default)]
    pub set: ConfigVars,
    /// Variables that are gone.
    #[serde(default)]
    pub removed: Vec<ConfigKey>,
}

/// A device works by these config variables now. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceConfigApplied {
    /// The version of the config.
    pub version: u64,
    /// Variables that the device knows and could not apply, each with the reason.
    #[serde(deserialize_with = "unique_map", default)]
    pub errors: BTreeMap<String, String>,
}

/// The first connection of a device was opened. Stream `device-presence/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceConnected {
    /// The broker's name of the connection, `<server id>/<client id>`.
    pub connection: String,
    /// The address that the broker saw.
    pub address: Option<String>,
}

/// Why a device counts as offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// The connection was closed.
    Closed,
    /// Nothing was heard for too long.
    Silent,
    /// The connection was gone when the keeper compared its list with the broker's.
    Gone,
}

/// The last connection of a device was closed. Stream `device-presence/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDisconnected {
    /// The connection that was the last one.
    pub connection: String,
    /// What the keeper saw.
    pub reason: DisconnectReason,
    /// What the broker said of it.
    pub detail: Option<String>,
}

/// A device recorded something that this server cannot read; its place in the device's history is
/// kept, and so are its signed bytes. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEventUnreadable {
    /// What the device called it.
    pub claimed_type: String,
    /// The version that the device named.
    pub claimed_version: u16,
    /// Why it could not be read.
    pub cause: String,
    /// The sealed event as it came.
    #[serde(with = "serde_bytes")]
    #[schema(value_type = Vec<u8>)]
    pub bytes: Vec<u8>,
}

/// Why a part of a device's history cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The outbox was full: these events were never recorded.
    OutboxFull,
    /// The log asked for events that the device had already let go.
    Pruned,
    /// The outbox could not be read.
    Damaged,
}

/// A device can no longer tell a part of its history. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceHistoryLost {
    /// Why.
    pub cause: LossCause,
    /// The epoch of what is missing.
    pub epoch: u64,
    /// The first missing `seq`; absent for events that were never given one.
    pub first_seq: Option<u64>,
    /// The last missing `seq`.
    pub last_seq: Option<u64>,
    /// How many events are missing, when it is known.
    pub count: Option<u64>,
    /// When the first of them happened, when it is known.
    pub first_time: Option<Timestamp>,
    /// When the last of them happened, when it is known.
    pub last_time: Option<Timestamp>,
}

/// A device signs with a new key from the next event on. The event itself is sealed by the old
/// key and holds the new key's agreement. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceKeyRotated {
    /// The new signing key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    #[schema(value_type = Vec<u8>)]
    pub signing_key: Vec<u8>,
    /// COSE_Sign1 of kind `rotation` by the new key over `[device id, epoch, old key's thumbprint]`.
    #[serde(with = "serde_bytes")]
    #[schema(value_type = Vec<u8>)]
    pub proof: Vec<u8>,
}

/// A device was deleted; its history stays, its name is free. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDeleted {
    /// Its name until now.
    pub name: DeviceName,
}

/// A name was given to a device. Stream `name/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceNameReserved {
    /// Who has it.
    pub device: DeviceId,
}

/// A name is free again. Stream `name/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceNameReleased {
    /// Who had it.
    pub device: DeviceId,
}
