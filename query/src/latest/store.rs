//! The newest values of all devices, in memory.

use std::collections::HashMap;
use std::sync::Arc;

use muster_api_types::metrics::MetricsSummary;
use muster_schemas::metrics::{InvalidBatch, MetricBatch};
use muster_schemas::selector::{Comparison, Metric};
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use parking_lot::{Mutex, RwLock};

use super::series::{DeviceSeries, LatestPoint, Row, Rows, encoded_name};
use super::summary::{self, Verdict};

/// The newest metrics of all devices; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LatestMetrics {
    devices: Arc<RwLock<HashMap<(ProjectId, DeviceId), Latest>>>,
    /// Number of batches that were stored, by project.
    updates: Arc<Mutex<HashMap<ProjectId, u64>>>,
}

#[derive(Clone, Debug, Default)]
struct Latest {
    received_at: Timestamp,
    series: DeviceSeries,
}

/// The devices with a fresh value of a metric, by whether it satisfies a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeasuredDevices {
    /// Devices of which one series satisfies it.
    pub matching: Vec<DeviceId>,
    /// The others.
    pub others: Vec<DeviceId>,
}

impl LatestMetrics {
    /// Stores a received batch. The newest value of each series by the device's own time is kept, in
    /// any order of receipt; a time in the future is limited to 5 min after the receipt.
    ///
    /// # Errors
    /// When the batch cannot be decoded.
    pub fn update(
        &self,
        project: &ProjectId,
        device: DeviceId,
        payload: &[u8],
        received_at: Timestamp,
    ) -> Result<(), InvalidBatch> {
        let (batch, _) = MetricBatch::decode_valid_points(payload)?;
        let rows = Rows::of(&batch, received_at);
        let mut devices = self.devices.write();
        let latest = devices.entry((project.clone(), device)).or_default();
        latest.received_at = latest.received_at.max(received_at);
        latest.series.apply(rows);
        drop(devices);
        *self.updates.lock().entry(project.clone()).or_default() += 1;
        Ok(())
    }

    /// Returns the number of batches of a project that were stored: while it does not change, neither
    /// do values.
    #[must_use]
    pub fn update_count(&self, project: &ProjectId) -> u64 {
        self.updates.lock().get(project).copied().unwrap_or_default()
    }

    /// Returns the time at which metrics of a device were last received.
    #[must_use]
    pub fn last_seen(&self, project: &ProjectId, device: DeviceId) -> Option<Timestamp> {
        self.read(project, device, |latest| latest.received_at)
    }

    /// Returns a summary of a device's newest metrics.
    #[must_use]
    pub fn summary(
        &self,
        project: &ProjectId,
        device: DeviceId,
        now: Timestamp,
    ) -> Option<MetricsSummary> {
        let summary = self.read(project, device, |latest| summary::of(&latest.series, now))?;
        (!summary.is_empty()).then_some(summary)
    }

    /// Returns the newest values of a device, and the number of values that were not kept because
    /// of the limits.
    #[must_use]
    pub fn points(
        &self,
        project: &ProjectId,
        device: DeviceId,
        now: Timestamp,
    ) -> (Vec<LatestPoint>, u64) {
        // Decoded without the lock.
        let series = self.read(project, device, |latest| latest.series.clone());
        let series = series.unwrap_or_default();
        (series.points(now).collect(), series.dropped)
    }

    /// Compares the fresh values of a metric, for all devices of a project.
    #[must_use]
    pub fn measure(
        &self,
        project: &ProjectId,
        metric: &Metric,
        comparison: Comparison,
        limit: f64,
        now: Timestamp,
    ) -> MeasuredDevices {
        let measurement = encoded_name(&metric.measurement);
        let rows: Vec<(DeviceId, Vec<Row>)> = {
            let devices = self.devices.read();
            let own = devices.iter().filter(|((of, _), _)| of == project);
            own.map(|((_, device), latest)| {
                (*device, latest.series.fresh_rows_of(&measurement, now))
            })
            .collect()
        };
        let mut found = MeasuredDevices::default();
        for (device, rows) in rows {
            let points = rows.iter().filter_map(|row| row.decode(now));
            match summary::verdict(points, metric, comparison, limit) {
                Verdict::Matches => found.matching.push(device),
                Verdict::Differs => found.others.push(device),
                Verdict::Unknown => {}
            }
        }
        found
    }

    /// Whether a device of the project reports the field, or has reported it.
    #[must_use]
    pub fn is_reported(&self, project: &ProjectId, measurement: &str, field: &str) -> bool {
        let measurement = encoded_name(measurement);
        self.devices.read().iter().any(|((of, _), latest)| {
            of == project
                && latest
                    .series
                    .points_of(&measurement, latest.received_at)
                    .any(|point| point.fields.keys().any(|name| name.as_str() == field))
        })
    }

    /// Removes the devices for which `keep` is false.
    pub fn retain(&self, is_kept: impl Fn(&ProjectId, DeviceId) -> bool) {
        self.devices.write().retain(|(project, device), _| is_kept(project, *device));
    }

    fn read<T>(
        &self,
        project: &ProjectId,
        device: DeviceId,
        value: impl FnOnce(&Latest) -> T,
    ) -> Option<T> {
        self.devices.read().get(&(project.clone(), device)).map(value)
    }
}
