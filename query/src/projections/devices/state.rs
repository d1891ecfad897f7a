//! The state of a device; `fold.rs` computes it.

use std::collections::BTreeMap;

use muster_schemas::events::{DeviceInventoryReported, DisconnectReason, LossCause};
use muster_schemas::names::{ConfigVars, DeviceName, Labels};
use muster_schemas::{DeviceId, Hash, Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of a device in the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Name of the device; absent only before it was registered.
    pub name: Option<DeviceName>,
    /// Labels of the device.
    pub labels: Labels,
    /// Version of the stream `device/<id>`: the resource's `ETag`.
    pub version: u64,
    /// Keys of the device, if it has enrolled.
    pub enrollment: Option<Enrollment>,
    /// The pending enrollment.
    pub waiting: Option<Waiting>,
    /// Time at which its keys were revoked; absent while they are valid.
    pub revoked_at: Option<Timestamp>,
    /// Epochs of the device, the newest last; at most [`Self::EPOCHS`].
    pub epochs: Vec<Epoch>,
    /// Inventory of the device.
    pub inventory: Option<DeviceInventoryReported>,
    /// Time of the inventory, by the device's clock.
    pub inventory_at: Option<Timestamp>,
    /// Whether it is connected, and since when.
    pub presence: Option<Presence>,
    /// Config variables.
    pub config: Config,
    /// Time of registration.
    pub created_at: Timestamp,
    /// Position of the registration.
    pub created_position: u64,
    /// Position of the newest event about the device.
    pub updated_position: u64,
    /// Time at which its last report or change of presence was recorded in the log.
    pub heard_at: Option<Timestamp>,
    /// Time of deletion.
    pub deleted_at: Option<Timestamp>,
    /// Numbers of events about the device.
    pub events: StreamCounts,
    /// Anomalies of the device.
    pub flags: Flags,
}

impl Device {
    /// Maximum number of epochs that are kept.
    pub const EPOCHS: usize = 16;

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.deleted_at.is_some() {
            Status::Deleted
        } else if self.waiting.is_some() {
            Status::Pending
        } else if self.revoked_at.is_some() {
            Status::Revoked
        } else if self.enrollment.is_none() {
            Status::Registered
        } else if self.presence.as_ref().is_some_and(|presence| presence.online) {
            Status::Online
        } else {
            Status::Offline
        }
    }

    /// Returns the hostname: as reported, or else as at the enrollment.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        let reported = self.inventory.as_ref().and_then(|it| it.hostname.as_deref());
        reported.or_else(|| self.enrollment.as_ref()?.hostname.as_deref())
    }
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
pub struct Waiting {
    /// Time of the request.
    pub since: Timestamp,
    /// Thumbprint (RFC 9679) of the machine's key, for comparison with the one that the machine
    /// shows.
    pub fingerprint: Hash,
    /// Enrollment token of the request.
    pub token: Option<TokenId>,
    /// Hostname of the machine.
    pub hostname: Option<String>,
    /// The device that has the same machine id.
    pub like: Option<DeviceId>,
}

/// The keys of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrollment {
    /// Time of its last enrollment.
    pub enrolled_at: Timestamp,
    /// Thumbprint (RFC 9679) of its current signing key.
    pub fingerprint: Hash,
    /// Its NATS user key.
    pub nats_key: String,
    /// Enrollment token of the enrollment.
    pub token: Option<TokenId>,
    /// Hostname at the enrollment.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id; indicates similarity, is no proof of identity.
    pub machine: Option<Hash>,
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
    pub epoch: u64,
    /// Cause of the epoch.
    pub cause: EpochCause,
    /// Time at which it started.
    pub since: Timestamp,
    /// The newest `seq` in the log; 0 before the first event.
    pub seq: u64,
}

/// Presence of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// Whether it has an open connection.
    pub online: bool,
    /// Time since which it is connected or disconnected.
    pub since: Timestamp,
    /// The last address that the broker reported.
    pub address: Option<String>,
    /// Reason of the disconnect.
    pub reason: Option<DisconnectReason>,
}

/// The config variables of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Config {
    /// Number of changes; 0 when none was ever set.
    pub version: u64,
    /// Values of the variables.
    #[schema(value_type = BTreeMap<String, muster_schemas::names::ConfigValue>)]
    pub vars: ConfigVars,
    /// Version that the device has applied; 0 for none.
    pub applied_version: u64,
    /// Time at which the device applied it, by the device's clock.
    pub applied_at: Option<Timestamp>,
    /// Variables that it could not apply, each with the reason.
    pub errors: BTreeMap<String, String>,
}

/// Numbers of events about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamCounts {
    /// Number of operators' changes.
    pub settings: u64,
    /// Number of its reports.
    pub reports: u64,
    /// Number of connects and disconnects.
    pub presence: u64,
}

/// Anomalies of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Flags {
    /// Number of forks of its history, as by a cloned card or a restored image.
    pub forks: u64,
    /// Number of its events that could not be decoded.
    pub unreadable: u64,
    /// Number of its events with an impossible time.
    pub odd_times: u64,
    /// Whether its newest event has an impossible time.
    pub odd_clock: bool,
    /// Number of reports that a part of its history is lost.
    pub losses: u64,
    /// The newest of these reports.
    pub last_loss: Option<Loss>,
}

/// A lost part of a device's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// Cause of the loss.
    pub cause: LossCause,
    /// Epoch of the missing events.
    pub epoch: u64,
    /// Number of missing events, if it is known.
    pub count: Option<u64>,
    /// Time at which the report was recorded.
    pub said_at: Timestamp,
}
