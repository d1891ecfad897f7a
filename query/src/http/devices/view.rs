//! Devices in responses of the API.

use muster_schemas::events::DeviceInventoryReported;
use muster_schemas::names::{DeviceName, Labels};
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::latest::{LatestMetrics, MetricsSummary};
use crate::projections::devices::{
    Config, Device, Enrollment, Epoch, Flags, Presence, Status, StreamCounts, Waiting,
};

/// A device in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DeviceSummary {
    /// Id of the device.
    pub(crate) id: DeviceId,
    /// Name of the device; another device may have the name of a deleted one by now.
    #[schema(value_type = DeviceName)]
    pub(crate) name: Option<DeviceName>,
    /// Status of the device.
    pub(crate) status: Status,
    /// Labels of the device.
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) labels: Labels,
    /// Hostname.
    pub(crate) hostname: Option<String>,
    /// Operating system.
    pub(crate) os: Option<String>,
    /// Architecture.
    pub(crate) arch: Option<String>,
    /// Version of the agent.
    pub(crate) agent_version: Option<String>,
    /// Time of the last message from the device: an event, or metrics.
    pub(crate) last_seen: Option<Timestamp>,
    /// The newest metrics.
    pub(crate) metrics: Option<MetricsSummary>,
    /// Time of registration.
    pub(crate) created_at: Timestamp,
    /// Version of its settings, as in its `ETag`.
    pub(crate) version: u64,
}

/// A device with all details.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DeviceDetail {
    /// The fields of the list.
    #[serde(flatten)]
    pub(crate) summary: DeviceSummary,
    /// Keys of the device; absent before it enrolled.
    pub(crate) enrollment: Option<Enrollment>,
    /// The pending enrollment; absent when there is none.
    pub(crate) waiting: Option<Waiting>,
    /// Time at which its keys were revoked; absent while they are valid.
    pub(crate) revoked_at: Option<Timestamp>,
    /// Epochs of the device, the newest last.
    pub(crate) epochs: Vec<Epoch>,
    /// Inventory of the device.
    pub(crate) inventory: Option<DeviceInventoryReported>,
    /// Time of the inventory, by the device's clock.
    pub(crate) inventory_at: Option<Timestamp>,
    /// Whether it is connected, and since when.
    pub(crate) presence: Option<Presence>,
    /// Config variables.
    pub(crate) config: Config,
    /// Numbers of events about the device.
    pub(crate) events: StreamCounts,
    /// Anomalies of the device.
    pub(crate) flags: Flags,
    /// Position of the newest event about the device.
    pub(crate) updated_position: u64,
    /// Time of deletion.
    pub(crate) deleted_at: Option<Timestamp>,
}

/// Additions from memory to the state in the log; none for a point-in-time query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live<'a> {
    pub(super) latest: Option<&'a LatestMetrics>,
    pub(super) project: &'a ProjectId,
}

impl Live<'_> {
    pub(super) fn last_seen(
        &self,
        id: DeviceId,
        received_at: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let measured = self.latest.and_then(|latest| latest.last_seen(self.project, id));
        measured.max(received_at)
    }

    pub(super) fn summary(&self, id: DeviceId, device: Device) -> DeviceSummary {
        self.detail(id, device).summary
    }

    pub(super) fn detail(&self, id: DeviceId, device: Device) -> DeviceDetail {
        let inventory = device.inventory.as_ref();
        let summary = DeviceSummary {
            id,
            status: device.status(),
            hostname: device.hostname().map(str::to_owned),
            os: inventory.and_then(|it| it.os_name.clone().or_else(|| it.os_id.clone())),
            arch: inventory.and_then(|it| it.arch.clone()),
            agent_version: inventory.map(|it| it.agent_version.clone()),
            last_seen: self.last_seen(id, device.heard_at),
            metrics: self.latest.and_then(|latest| latest.summary(self.project, id)),
            created_at: device.created_at,
            version: device.version,
            name: device.name,
            labels: device.labels,
        };
        DeviceDetail {
            summary,
            enrollment: device.enrollment,
            waiting: device.waiting,
            revoked_at: device.revoked_at,
            epochs: device.epochs,
            inventory: device.inventory,
            inventory_at: device.inventory_at,
            presence: device.presence,
            config: device.config,
            events: device.events,
            flags: device.flags,
            updated_position: device.updated_position,
            deleted_at: device.deleted_at,
        }
    }
}
