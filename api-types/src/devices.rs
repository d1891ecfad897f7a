//! Devices: their registration, their settings and their state.

use std::collections::BTreeMap;
use std::fmt;

use muster_schemas::events::{DisconnectReason, LossCause};
use muster_schemas::names::{
    ConfigKey, ConfigValue, ConfigVars, DeviceName, LabelKey, LabelValue, Labels,
};
use muster_schemas::{
    ConfigVersion, DeviceId, Hash, Position, Seq, StreamVersion, Timestamp, TokenId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::inventory::Inventory;
use crate::metrics::{MetricsSummary, WithoutFreshValue};
use crate::{Open, WriteResult, schema};

/// A device, as other resources refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"id": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7"}))]
pub struct DeviceRef {
    /// Id of the device.
    #[schema(value_type = schema::DeviceId)]
    pub id: DeviceId,
    /// Name of the device; null where the server has only the id.
    #[schema(value_type = Option<schema::DeviceName>)]
    pub name: Option<String>,
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => self.id.fmt(f),
        }
    }
}

/// A request to register a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "robot-7", "labels": {"env": "prod"}}))]
pub struct RegisterDevice {
    /// Name of the device, unique in the project.
    #[schema(value_type = schema::DeviceName)]
    pub name: DeviceName,
    /// Labels of the device.
    #[serde(default)]
    #[schema(value_type = BTreeMap<schema::LabelKey, schema::LabelValue>)]
    pub labels: Labels,
    /// Fingerprint of the key that the device will enroll with, as `muster-agent fingerprint`
    /// prints it: a machine that enrolls with this key and a token becomes this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub fingerprint: Option<Hash>,
}

/// A registered device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c0de-7000-7abc-8def-0123456789ab", "version": 1, "position": 42
}))]
pub struct DeviceRegisteredResult {
    /// Id of the device.
    #[schema(value_type = schema::DeviceId)]
    pub id: DeviceId,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub result: WriteResult,
}

/// A request to change a device.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "robot-8", "labels": {"env": "prod", "retired": null}}))]
pub struct ChangeDevice {
    /// New name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::DeviceName>)]
    pub name: Option<DeviceName>,
    /// Labels: a value sets, `null` removes; other labels are unchanged.
    #[serde(default)]
    // Generators would name the nullable values, and then lose their type or `null`.
    #[schema(value_type = BTreeMap<schema::LabelKey, LabelChange>, inline)]
    pub labels: BTreeMap<LabelKey, Option<LabelValue>>,
}

/// A request to create a device, or to replace its labels.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"labels": {"env": "prod"}}))]
pub struct ReplaceDevice {
    /// All labels of the device.
    #[schema(value_type = BTreeMap<schema::LabelKey, schema::LabelValue>)]
    pub labels: Labels,
}

/// A request to replace all config variables of a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vars": {"metrics.interval": "5s", "log.level": "info"}}))]
pub struct ReplaceConfig {
    /// All config variables of the device. A value keeps its type.
    #[schema(value_type = BTreeMap<schema::ConfigKey, schema::ConfigValue>)]
    pub vars: ConfigVars,
}

/// New value of a label; `null` removes it.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the values of `labels` in the OpenAPI document")]
pub(crate) enum LabelChange {
    Set(schema::LabelValue),
    Remove,
}

/// A request to set and remove config variables.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vars": {"metrics.interval": "5s", "log.level": "info", "old": null}}))]
pub struct SetConfig {
    /// Config variables: a value sets, `null` removes; others are unchanged. A value keeps its
    /// type.
    // As above.
    #[schema(value_type = BTreeMap<schema::ConfigKey, ConfigChange>, inline)]
    pub vars: BTreeMap<ConfigKey, Option<ConfigValue>>,
}

/// New value of a config variable; `null` removes it.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the values of `vars` in the OpenAPI document")]
pub(crate) enum ConfigChange {
    Set(schema::ConfigValue),
    Remove,
}

/// A request to accept a pending enrollment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"replaces": "robot-7"}))]
pub struct AcceptDevice {
    /// Device that the machine becomes, by id or name: the device keeps its name, labels, config
    /// and history, and the machine's keys replace its keys. Default: a new device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// A request to reject a pending enrollment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "not one of ours"}))]
pub struct RejectDevice {
    /// Reason, as text for the log; maximum: 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
}

/// A request to revoke a device's keys.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "stolen from the van"}))]
pub struct RevokeDevice {
    /// Reason, as text for the log; maximum: 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
}

/// A request to rotate a device's signing key; it has no fields.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({}))]
pub struct RotateKey {}

/// A device in a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceSummary {
    /// Id of the device.
    #[schema(value_type = schema::DeviceId)]
    pub id: DeviceId,
    /// Name of the device; another device may have the name of a deleted one by now.
    #[schema(value_type = schema::DeviceName)]
    pub name: Option<DeviceName>,
    /// Status of the device.
    #[schema(value_type = Status)]
    pub status: Open<Status>,
    /// Labels of the device.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    /// Hostname.
    pub hostname: Option<String>,
    /// Operating system.
    pub os: Option<String>,
    /// Architecture.
    pub arch: Option<String>,
    /// Version of the agent.
    pub agent_version: Option<String>,
    /// Time of the last message from the device: an event, or metrics.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub last_seen_at: Option<Timestamp>,
    /// The newest metrics.
    pub metrics: Option<MetricsSummary>,
    /// Time of registration.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// The actor that registered or enrolled it.
    pub created_by: String,
    /// Version of its settings, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}

/// A page of a list of devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DevicePage {
    /// Items of the page.
    pub items: Vec<DeviceSummary>,
    /// Value for `cursor` to read the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub next: Option<String>,
    /// Metrics of the selector of which devices had no fresh value: those devices are not in the
    /// list. Absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_fresh_value: Vec<WithoutFreshValue>,
}

/// A device with all details.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    /// The fields of the list.
    #[serde(flatten)]
    pub summary: DeviceSummary,
    /// Keys of the device; absent before it enrolled.
    pub enrollment: Option<Enrollment>,
    /// The pending enrollment; absent when there is none.
    pub pending_enrollment: Option<PendingEnrollment>,
    /// Time at which its keys were revoked; absent while they are valid.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub revoked_at: Option<Timestamp>,
    /// Epochs of the device, the newest last.
    pub epochs: Vec<Epoch>,
    /// Inventory of the device.
    pub inventory: Option<Inventory>,
    /// Time of the inventory, by the device's clock.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub inventory_reported_at: Option<Timestamp>,
    /// Whether it is connected, and since when.
    pub presence: Option<Presence>,
    /// Config variables.
    pub config: Config,
    /// Numbers of events about the device.
    pub event_counts: EventCounts,
    /// Anomalies of the device.
    pub flags: Flags,
    /// Position of the newest event about the device.
    #[schema(value_type = u64)]
    pub updated_position: Position,
    /// Time of deletion.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub deleted_at: Option<Timestamp>,
}

/// Status of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// An operator has registered the device; it has not enrolled.
    Registered,
    /// The enrollment waits for an operator's approval.
    Pending,
    /// The device is connected.
    Online,
    /// The device has enrolled and is not connected.
    Offline,
    /// The device's keys are revoked until it enrolls again.
    Revoked,
    /// The device was deleted; its history is kept.
    Deleted,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Pending,
        Self::Online,
        Self::Offline,
        Self::Revoked,
        Self::Deleted,
    ];

    /// Returns its name in the table and in selectors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Pending => "pending",
            Self::Revoked => "revoked",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Deleted => "deleted",
        }
    }
}

/// A pending enrollment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingEnrollment {
    /// Time of the request.
    #[schema(value_type = schema::Timestamp)]
    pub requested_at: Timestamp,
    /// Thumbprint (RFC 9679) of the machine's key, for comparison with the one that the machine
    /// shows.
    #[schema(value_type = schema::Hash)]
    pub fingerprint: Hash,
    /// Enrollment token of the request.
    #[schema(value_type = Option<schema::TokenId>)]
    pub token: Option<TokenId>,
    /// Hostname of the machine.
    pub hostname: Option<String>,
    /// The device that has the same machine id.
    pub same_machine: Option<DeviceRef>,
}

/// The keys of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrollment {
    /// Time of its last enrollment.
    #[schema(value_type = schema::Timestamp)]
    pub enrolled_at: Timestamp,
    /// Thumbprint (RFC 9679) of its current signing key.
    #[schema(value_type = schema::Hash)]
    pub fingerprint: Hash,
    /// Its NATS user key.
    pub nats_key: String,
    /// Enrollment token of the enrollment.
    #[schema(value_type = Option<schema::TokenId>)]
    pub token: Option<TokenId>,
    /// Hostname at the enrollment.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id; indicates similarity, is no proof of identity.
    #[schema(value_type = Option<schema::Hash>)]
    pub machine_hash: Option<Hash>,
}

/// Cause of a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EpochCause {
    /// The device enrolled.
    Enrolled,
    /// The device's chain of events forked from the one in the log.
    Fork,
    /// The device had lost events that the log does not have.
    HistoryLost,
}

/// A gapless chain of a device's own events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Epoch {
    /// Number of the epoch.
    #[schema(value_type = u64)]
    pub epoch: muster_schemas::Epoch,
    /// Cause of the epoch.
    #[schema(value_type = EpochCause)]
    pub cause: Open<EpochCause>,
    /// Time at which it started.
    #[schema(value_type = schema::Timestamp)]
    pub started_at: Timestamp,
    /// The newest `seq` in the log; 0 before the first event.
    #[schema(value_type = u64)]
    pub newest_seq: Seq,
}

/// Presence of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// Whether it has an open connection.
    pub online: bool,
    /// Time at which it connected or disconnected.
    #[schema(value_type = schema::Timestamp)]
    pub changed_at: Timestamp,
    /// The last address that the broker reported.
    pub address: Option<String>,
    /// Reason of the disconnect.
    #[schema(value_type = Option<schema::DisconnectReason>)]
    pub reason: Option<Open<DisconnectReason>>,
}

/// The config variables of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Config {
    /// Number of changes; 0 when none was ever set.
    #[schema(value_type = u64)]
    pub version: ConfigVersion,
    /// Values of the variables.
    #[schema(value_type = BTreeMap<String, schema::ConfigValue>)]
    pub vars: ConfigVars,
    /// Version that the device has applied; 0 for none.
    #[schema(value_type = u64)]
    pub applied_version: ConfigVersion,
    /// Time at which the device applied it, by the device's clock.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub applied_at: Option<Timestamp>,
    /// Variables that it could not apply, each with the reason.
    pub errors: BTreeMap<String, String>,
}

/// Numbers of events about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct EventCounts {
    /// Number of operators' changes.
    pub setting_count: u64,
    /// Number of its reports.
    pub report_count: u64,
    /// Number of connects and disconnects.
    pub presence_count: u64,
}

/// Anomalies of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Flags {
    /// Number of forks of its history, as by a cloned card or a restored image.
    pub fork_count: u64,
    /// Number of its events that could not be decoded.
    pub unreadable_count: u64,
    /// Number of its events with an impossible time.
    pub implausible_time_count: u64,
    /// Whether its newest event has an impossible time.
    pub clock_implausible: bool,
    /// Number of reports that a part of its history is lost.
    pub loss_count: u64,
    /// The newest of these reports.
    pub last_loss: Option<Loss>,
}

/// A lost part of a device's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// Cause of the loss.
    #[schema(value_type = schema::LossCause)]
    pub cause: Open<LossCause>,
    /// Epoch of the missing events.
    #[schema(value_type = u64)]
    pub epoch: muster_schemas::Epoch,
    /// Number of missing events, if it is known.
    pub missing_count: Option<u64>,
    /// Time at which the report was recorded.
    #[schema(value_type = schema::Timestamp)]
    pub reported_at: Timestamp,
}
