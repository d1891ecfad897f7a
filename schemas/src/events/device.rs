//! Events of a device: life cycle, settings, presence, history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::unique_map;
use crate::cose::Hash;
use crate::ids::{DeviceId, TokenId};
use crate::names::{ConfigKey, ConfigVars, DeviceName, LabelKey, Labels};
use crate::numbers::{ConfigVersion, Epoch, Seq};
use crate::timestamp::Timestamp;

/// A device was registered, by an operator or by an enrollment. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRegistered {
    /// The device's name, unique in its project.
    pub name: DeviceName,
    /// The initial labels.
    #[serde(deserialize_with = "unique_map", default)]
    pub labels: Labels,
    /// The thumbprint of the key that was registered in advance: the machine that enrolls with that key
    /// becomes this device.
    pub fingerprint: Option<Hash>,
}

/// A machine requested enrollment, and waits for an operator. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnrollmentRequested {
    /// The signing key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    pub signing_key: Vec<u8>,
    /// The signing key's thumbprint (RFC 9679).
    pub fingerprint: Hash,
    /// The NATS user key, `U…`.
    pub nats_key: String,
    /// The enrollment token that was used.
    pub token: Option<TokenId>,
    /// The host name.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id, with a prefix.
    pub machine: Option<Hash>,
    /// SHA-256 of each network card's address, with a prefix.
    #[serde(default)]
    pub macs: Vec<Hash>,
    /// The device with the same machine id or network card, if there is one.
    pub like: Option<DeviceId>,
}

/// An operator accepted a pending machine. Stream `device/<id>` of the pending device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnrollmentAccepted {
    /// The existing device that it became, if any.
    pub replaces: Option<DeviceId>,
}

/// An operator rejected a pending machine. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnrollmentRejected {
    /// The operator's reason.
    pub reason: Option<String>,
}

/// A device's keys were revoked. It keeps its name and settings until it enrolls again. Stream
/// `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRevoked {
    /// The operator's reason.
    pub reason: Option<String>,
}

/// A device enrolled: its keys were registered. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnrolled {
    /// The epoch that starts with this enrollment; higher than any previous one.
    pub epoch: Epoch,
    /// The signing key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    pub signing_key: Vec<u8>,
    /// The signing key's thumbprint (RFC 9679).
    pub fingerprint: Hash,
    /// The NATS user key, `U…`.
    pub nats_key: String,
    /// The enrollment token that was used.
    pub token: Option<TokenId>,
    /// The host name at the enrollment.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id, with a prefix; a hint, no proof.
    pub machine: Option<Hash>,
    /// SHA-256 of each network card's address, with a prefix; a hint, no proof.
    #[serde(default)]
    pub macs: Vec<Hash>,
}

/// Why a device continued in a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its branch of the history differs from the log's.
    Fork,
    /// It lost events that the log does not have.
    HistoryLost,
}

/// A device was granted a new epoch, with the same keys. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEpochGranted {
    /// The new epoch; `seq` starts at 1.
    pub epoch: Epoch,
    /// The previous epoch.
    pub previous: Epoch,
    /// Why.
    pub cause: Cause,
}

/// Two branches of one device's history exist: a copied disk, or a restored image. Stream
/// `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceForked {
    /// The epoch in which the branches diverge.
    pub epoch: Epoch,
    /// The first `seq` at which the branches have different events.
    pub seq: Seq,
    /// The hash of the log's event at that `seq`; absent if the log has no record of it.
    pub logged: Option<Hash>,
    /// The hash of the other branch's event at that `seq`; absent if it has none.
    pub other: Option<Hash>,
    /// The epoch in which the other branch continues. Equal to `epoch` if it does not: it was an old
    /// copy, with a revoked key.
    pub continues_in: Epoch,
}

/// A device was renamed. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRenamed {
    /// The new name.
    pub name: DeviceName,
    /// The previous name.
    pub previous: DeviceName,
}

/// Labels were set or removed. Stream `device/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLabelsChanged {
    /// Labels with a new value.
    #[serde(deserialize_with = "unique_map", default)]
    pub set: Labels,
    /// Labels that were removed.
    #[serde(default)]
    pub removed: Vec<LabelKey>,
}

/// Config variables were set or removed. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceConfigSet {
    /// Number of changes of this device's config, from 1.
    pub version: ConfigVersion,
    /// Variables with a new value.
    #[serde(deserialize_with = "unique_map", default)]
    pub set: ConfigVars,
    /// Variables that were removed.
    #[serde(default)]
    pub removed: Vec<ConfigKey>,
}

/// A device applied its config. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfigApplied {
    /// The version of the config.
    pub version: ConfigVersion,
    /// Variables that the device could not apply, each with the reason.
    #[serde(deserialize_with = "unique_map", default)]
    pub errors: BTreeMap<String, String>,
}

/// A device's first connection was opened. Stream `device-presence/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConnected {
    /// The broker's id of the connection, `<server id>/<client id>`.
    pub connection: String,
    /// The client's address, as seen by the broker.
    pub address: Option<String>,
}

/// Why a device is offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// The connection was closed.
    Closed,
    /// The device was silent for too long.
    Silent,
    /// The broker no longer listed the connection.
    Gone,
}

/// A device's last connection was closed. Stream `device-presence/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDisconnected {
    /// The last connection.
    pub connection: String,
    /// The reason that the presence tracker determined.
    pub reason: DisconnectReason,
    /// The broker's reason.
    pub detail: Option<String>,
}

/// A device recorded an event that this server cannot decode; its sequence number and signed bytes are
/// kept. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEventUnreadable {
    /// The event type that the device named.
    pub claimed_type: String,
    /// The version that the device named.
    pub claimed_version: u16,
    /// Why it could not be decoded.
    pub cause: String,
    /// The signed event as received.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Why a part of a device's history was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The outbox was full: these events were never recorded.
    OutboxFull,
    /// The log requested events that the device had already deleted.
    Pruned,
    /// The outbox was unreadable.
    Damaged,
}

/// A device declared a part of its history as lost. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHistoryLost {
    /// Why.
    pub cause: LossCause,
    /// The epoch of the missing events.
    pub epoch: Epoch,
    /// The first missing `seq`; absent for events that never had one.
    pub first_seq: Option<Seq>,
    /// The last missing `seq`.
    pub last_seq: Option<Seq>,
    /// The number of missing events, if known.
    pub count: Option<u64>,
    /// The time of the first missing event, if known.
    pub first_time: Option<Timestamp>,
    /// The time of the last missing event, if known.
    pub last_time: Option<Timestamp>,
}

/// A device signs with a new key from the next event on. The event itself is signed by the old
/// key and contains the new key's proof. Stream `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceKeyRotated {
    /// The new signing key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    pub signing_key: Vec<u8>,
    /// COSE_Sign1 of kind `rotation` by the new key over `[device id, epoch, old key's thumbprint]`.
    #[serde(with = "serde_bytes")]
    pub proof: Vec<u8>,
}

/// A device was deleted; its history is kept, its name is free. Stream `device/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDeleted {
    /// Its last name.
    pub name: DeviceName,
}

/// A name was assigned to a device. Stream `name/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNameReserved {
    /// The device.
    pub device: DeviceId,
}

/// A name was released. Stream `name/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNameReleased {
    /// The device that had it.
    pub device: DeviceId,
}
