//! Devices in responses of the API.

use muster_api_types::devices::{DeviceDetail, DeviceSummary};
use muster_api_types::metrics::MetricsSummary;
use muster_schemas::{DeviceId, ProjectId, Timestamp};

use crate::latest::LatestMetrics;
use crate::projections::devices::Device;

/// Additions from memory to the state in the log; none for a point-in-time query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live<'a> {
    pub(super) latest: Option<&'a LatestMetrics>,
    pub(super) project: &'a ProjectId,
    /// The time by which the age of metrics is measured.
    pub(super) now: Timestamp,
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

    pub(super) fn metrics(&self, id: DeviceId) -> Option<MetricsSummary> {
        self.latest.and_then(|latest| latest.summary(self.project, id, self.now))
    }

    pub(super) fn summary(&self, id: DeviceId, device: Device) -> DeviceSummary {
        self.detail(id, device).summary
    }

    pub(super) fn detail(&self, id: DeviceId, device: Device) -> DeviceDetail {
        let inventory = device.inventory.as_ref();
        let summary = DeviceSummary {
            id,
            status: device.status().into(),
            hostname: device.hostname().map(str::to_owned),
            os: inventory.and_then(|it| it.os_name.clone().or_else(|| it.os_id.clone())),
            arch: inventory.and_then(|it| it.arch.clone()),
            agent_version: inventory.map(|it| it.agent_version.clone()),
            last_seen_at: self.last_seen(id, device.heard_at),
            metrics: self.metrics(id),
            created_at: device.created_at,
            created_by: device.created_by,
            version: device.version,
            name: device.name,
            labels: device.labels,
        };
        DeviceDetail {
            summary,
            enrollment: device.enrollment,
            pending_enrollment: device.pending_enrollment,
            revoked_at: device.revoked_at,
            epochs: device.epochs,
            inventory: device.inventory.map(Into::into),
            inventory_reported_at: device.inventory_at,
            presence: device.presence,
            config: device.config,
            event_counts: device.events,
            flags: device.flags,
            updated_position: device.updated_position,
            deleted_at: device.deleted_at,
        }
    }
}
