//! Limit on the number of series of one device: a metric store indexes every series that it ever
//! received, so one device that makes up names could fill the index for all.
//!
//! A series is a measurement with its tags and the names of its fields. The series of a device are
//! remembered for a day, as hashes. Pure, except for the hasher's secret.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::{DeviceId, ProjectId};

/// Time after which a device's series are forgotten.
const SERIES_TTL: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of remembered series of all devices; above it each device gets only [`GUARANTEED_SERIES`].
const MAX_TOTAL_SERIES: usize = 4_000_000;
/// Number of series that every device may have, independent of the number of devices.
const GUARANTEED_SERIES: usize = 200;

/// The series of each device.
#[derive(Debug)]
pub(super) struct SeriesGuard {
    limit: usize,
    hasher: RandomState,
    devices: HashMap<(ProjectId, DeviceId), DeviceSeries>,
    total: usize,
}

#[derive(Debug)]
struct DeviceSeries {
    since: Instant,
    series: HashSet<u64>,
}

impl SeriesGuard {
    /// Creates a guard that allows each device `limit` series.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, hasher: RandomState::new(), devices: HashMap::new(), total: 0 }
    }

    /// Removes the points of new series from a device that has too many; its existing series
    /// continue. Returns the number of removed points.
    pub(super) fn enforce(
        &mut self,
        device: &(ProjectId, DeviceId),
        batch: &mut MetricBatch,
        now: Instant,
    ) -> usize {
        if !self.devices.contains_key(device) {
            let entry = DeviceSeries { since: now, series: HashSet::new() };
            self.devices.insert(device.clone(), entry);
        }
        let Some(entry) = self.devices.get_mut(device) else { return 0 };
        if now.duration_since(entry.since) > SERIES_TTL {
            self.total -= entry.series.len();
            *entry = DeviceSeries { since: now, series: HashSet::new() };
        }
        let before = batch.points.len();
        batch.points.retain(|point| {
            let series = key(&self.hasher, point);
            if entry.series.contains(&series) {
                return true;
            }
            let limit = if self.total < MAX_TOTAL_SERIES {
                self.limit
            } else {
                self.limit.min(GUARANTEED_SERIES)
            };
            let has_capacity = entry.series.len() < limit;
            if has_capacity {
                entry.series.insert(series);
                self.total += 1;
            }
            has_capacity
        });
        before - batch.points.len()
    }
}

fn key(hasher: &RandomState, point: &Point) -> u64 {
    let names = || point.fields.keys().map(muster_schemas::metrics::MetricName::as_str);
    hasher.hash_one((
        point.measurement.as_str(),
        point.tags.iter().collect::<Vec<_>>(),
        names().collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod tests {
    use muster_schemas::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn device(number: u128) -> (ProjectId, DeviceId) {
        (ProjectId::default_project(), DeviceId(Uuid::from_u128(number)))
    }

    fn batch(names: std::ops::Range<u32>) -> MetricBatch {
        let point = |n: u32| Point::new("app").tag("n", n.to_string()).field("v", 1_i64);
        MetricBatch { time: Timestamp(0), points: names.map(point).collect() }
    }

    #[test]
    fn known_series_continue_and_new_ones_are_dropped_until_the_next_day() {
        let (mut guard, now) = (SeriesGuard::new(10), Instant::now());
        let mut hold = |id, names, now| {
            let mut batch = batch(names);
            let dropped = guard.enforce(&device(id), &mut batch, now);
            (batch.points.len(), dropped)
        };
        assert_eq!(hold(1, 0..8, now), (8, 0));
        assert_eq!(hold(1, 4..14, now), (6, 4));
        assert_eq!(hold(1, 0..20, now), (10, 10));
        assert_eq!(hold(2, 0..10, now), (10, 0), "another device has its own");
        let tomorrow = now + SERIES_TTL + Duration::from_secs(1);
        assert_eq!(hold(1, 100..120, tomorrow), (10, 10));
        // To the store an additional field makes another series.
        let more = Point::new("app").tag("n", "0").field("v", 1_i64).field("w", 1_i64);
        let mut batch = MetricBatch { time: Timestamp(0), points: vec![more] };
        assert_eq!(guard.enforce(&device(2), &mut batch, now), 1);
    }

    #[test]
    fn the_series_of_all_devices_together_are_limited() {
        let (mut guard, now) = (SeriesGuard::new(1_000), Instant::now());
        guard.total = MAX_TOTAL_SERIES;
        let mut batch = batch(0..300);
        let dropped = guard.enforce(&device(1), &mut batch, now);
        assert_eq!((batch.points.len(), dropped), (GUARANTEED_SERIES, 100));
    }
}
