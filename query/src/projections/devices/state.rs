//! The state of a device; `fold.rs` computes it.

use muster_api_types::devices::{
    Config, Enrollment, Epoch, EventCounts, Flags, PendingEnrollment, Presence, Status,
};
use muster_schemas::events::DeviceInventoryReported;
use muster_schemas::names::{DeviceName, Labels};
use muster_schemas::{Position, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};

/// The state of a device in the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Name of the device; absent only before it was registered.
    pub name: Option<DeviceName>,
    /// Labels of the device.
    pub labels: Labels,
    /// Version of the stream `device/<id>`: the resource's `ETag`.
    pub version: StreamVersion,
    /// Keys of the device, if it has enrolled.
    pub enrollment: Option<Enrollment>,
    /// The pending enrollment.
    pub pending_enrollment: Option<PendingEnrollment>,
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
    /// The actor that registered or enrolled it.
    pub created_by: String,
    /// Position of the registration.
    pub created_position: Position,
    /// Position of the newest event about the device.
    pub updated_position: Position,
    /// Time at which its last report or change of presence was recorded in the log.
    pub heard_at: Option<Timestamp>,
    /// Time of deletion.
    pub deleted_at: Option<Timestamp>,
    /// Numbers of events about the device.
    pub events: EventCounts,
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
        } else if self.pending_enrollment.is_some() {
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
