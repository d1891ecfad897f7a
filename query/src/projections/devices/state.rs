//! What is known of a device. How it comes to be is in `fold.rs`.

use std::collections::BTreeMap;

use muster_schemas::events::{DeviceInventoryReported, DisconnectReason, LossCause};
use muster_schemas::names::{ConfigVars, DeviceName, Labels};
use muster_schemas::{DeviceId, Hash, Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything that the log says of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its name; absent only before it was registered.
    pub name: Option<DeviceName>,
    /// Its labels.
    pub labels: Labels,
    /// The version of stream `device/<id>`: the resource's `ETag`.
    pub version: u64,
    /// Its keys, when it has enrolled.
    pub enrollment: Option<Enrollment>,
    /// What it waits with for an operator.
    pub waiting: Option<Waiting>,
    /// When its keys were revoked; absent when they are good.
    pub revoked_at: Option<Timestamp>,
    /// Its epochs, the newest last; at most [`Self::EPOCHS`].
    pub epochs: Vec<Epoch>,
    /// What it is made of.
    pub inventory: Option<DeviceInventoryReported>,
    /// When it said so, as it claims.
    pub inventory_at: Option<Timestamp>,
    /// Is it connected, and since when.
    pub presence: Option<Presence>,
    /// Its config variables.
    pub config: Config,
    /// When it was registered.
    pub created_at: Timestamp,
    /// The position of that event.
    pub created_position: u64,
    /// The position of the newest event about it.
    pub updated_position: u64,
    /// When something of it came into the log for the last time.
    pub heard_at: Option<Timestamp>,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// How many events are about it.
    pub events: StreamCounts,
    /// What is odd about it.
    pub flags: Flags,
}

impl Device {
    /// Epochs that are kept.
    pub const EPOCHS: usize = 16;

    /// Where it stands.
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

    /// The host's own name: as reported, else as it was at the enrollment.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        let reported = self.inventory.as_ref().and_then(|it| it.hostname.as_deref());
        reported.or_else(|| self.enrollment.as_ref()?.hostname.as_deref())
    }
}

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// An operator made it known; it never enrolled.
    Registered,
    /// It waits for an operator to let it in.
    Pending,
    /// It is connected.
    Online,
    /// It has enrolled and is not connected.
    Offline,
    /// Its keys are worth nothing until it enrolls again.
    Revoked,
    /// It was deleted; its history stays.
    Deleted,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Pending,
        Self::Online,
        Self::Offline,
        Self::Revoked,
        Self::Deleted,
    ];

    /// As it stands in the table and in selectors.
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

/// What a machine waits with for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// Since when.
    pub since: Timestamp,
    /// The thumbprint (RFC 9679) of its key, to be compared with what the machine shows.
    pub fingerprint: Hash,
    /// The enrollment token that it came with.
    pub token: Option<TokenId>,
    /// The host's own name.
    pub hostname: Option<String>,
    /// The device that has the same machine id.
    pub like: Option<DeviceId>,
}

/// The keys of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrollment {
    /// When it enrolled for the last time.
    pub enrolled_at: Timestamp,
    /// The thumbprint (RFC 9679) of the key that it signs with now.
    pub fingerprint: Hash,
    /// Its NATS user key.
    pub nats_key: String,
    /// The enrollment token that was used.
    pub token: Option<TokenId>,
    /// The host's own name when it enrolled.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id; tells likeness, proves nothing.
    pub machine: Option<Hash>,
}

/// How an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EpochCause {
    /// The device enrolled.
    Enrolled,
    /// Its branch of the history was not the one in the log.
    Fork,
    /// It had lost events that the log missed.
    HistoryLost,
}

/// An unbroken run of a device's own events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Epoch {
    /// Its number.
    pub epoch: u64,
    /// How it began.
    pub cause: EpochCause,
    /// When it began.
    pub since: Timestamp,
    /// The newest `seq` in the log; 0 when nothing came yet.
    pub seq: u64,
}

/// Is a device connected?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// Is any connection of it open?
    pub online: bool,
    /// Since when it is so.
    pub since: Timestamp,
    /// The address that the broker saw last.
    pub address: Option<String>,
    /// Why it went offline.
    pub reason: Option<DisconnectReason>,
}

/// The config variables of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Config {
    /// Counts the changes; 0 when none was ever set.
    pub version: u64,
    /// What is set.
    #[schema(value_type = BTreeMap<String, muster_schemas::names::ConfigValue>)]
    pub vars: ConfigVars,
    /// The version that the device works by; 0 when it has applied none.
    pub applied_version: u64,
    /// When it said so.
    pub applied_at: Option<Timestamp>,
    /// What it could not apply, each with the reason.
    pub errors: BTreeMap<String, String>,
}

/// How many events are about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamCounts {
    /// What operators decided.
    pub settings: u64,
    /// What it reported.
    pub reports: u64,
    /// Connections.
    pub presence: u64,
}

/// What is odd about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Flags {
    /// How often two branches of its history were found: a cloned card, a restored image.
    pub forks: u64,
    /// How many of its events could not be read.
    pub unreadable: u64,
    /// How many of its events claim a time that cannot be.
    pub odd_times: u64,
    /// Did its newest event claim a time that cannot be?
    pub odd_clock: bool,
    /// How often it said that a part of its history is lost.
    pub losses: u64,
    /// The newest of these.
    pub last_loss: Option<Loss>,
}

/// A part of a history that nobody can tell any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// Why.
    pub cause: LossCause,
    /// The epoch of what is missing.
    pub epoch: u64,
    /// How many events, when it is known.
    pub count: Option<u64>,
    /// When it was said.
    pub said_at: Timestamp,
}
