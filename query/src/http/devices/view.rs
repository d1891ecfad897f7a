//! A device as the API shows it.

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
    /// Its id.
    pub(crate) id: DeviceId,
    /// Its name; a deleted device's may be another's by now.
    #[schema(value_type = DeviceName)]
    pub(crate) name: Option<DeviceName>,
    /// Where it stands.
    pub(crate) status: Status,
    /// Its labels.
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) labels: Labels,
    /// The host's own name.
    pub(crate) hostname: Option<String>,
    /// Its operating system.
    pub(crate) os: Option<String>,
    /// Its architecture.
    pub(crate) arch: Option<String>,
    /// The agent's version.
    pub(crate) agent_version: Option<String>,
    /// When anything of it was last heard: an event, or metrics.
    pub(crate) last_seen: Option<Timestamp>,
    /// Its newest figures.
    pub(crate) metrics: Option<MetricsSummary>,
    /// When it was registered.
    pub(crate) created_at: Timestamp,
    /// The version of its settings, as in its `ETag`.
    pub(crate) version: u64,
}

/// A device in full.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DeviceDetail {
    /// What lists show of it.
    #[serde(flatten)]
    pub(crate) summary: DeviceSummary,
    /// Its keys; absent before it enrolled.
    pub(crate) enrollment: Option<Enrollment>,
    /// What it waits with for an operator; absent when it does not.
    pub(crate) waiting: Option<Waiting>,
    /// When its keys were revoked; absent when they are good.
    pub(crate) revoked_at: Option<Timestamp>,
    /// Its epochs, the newest last.
    pub(crate) epochs: Vec<Epoch>,
    /// What it is made of.
    pub(crate) inventory: Option<DeviceInventoryReported>,
    /// When it said so, as it claims.
    pub(crate) inventory_at: Option<Timestamp>,
    /// Is it connected, and since when.
    pub(crate) presence: Option<Presence>,
    /// Its config variables.
    pub(crate) config: Config,
    /// How many events are about it.
    pub(crate) events: StreamCounts,
    /// What is odd about it.
    pub(crate) flags: Flags,
    /// The position of the newest event about it.
    pub(crate) updated_position: u64,
    /// When it was deleted.
    pub(crate) deleted_at: Option<Timestamp>,
}

/// What memory adds to what the log says; nothing, for the past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live<'a> {
    pub(super) latest: Option<&'a LatestMetrics>,
    pub(super) project: &'a ProjectId,
}

impl Live<'_> {
    pub(super) fn last_seen(&self, id: DeviceId, heard_at: Option<Timestamp>) -> Option<Timestamp> {
        let measured = self.latest.and_then(|latest| latest.last_seen(self.project, id));
        measured.max(heard_at)
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
