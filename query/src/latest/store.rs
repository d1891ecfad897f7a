//! The store in memory: the newest batch of each device and group, encoded.
//!
//! Bytes, not points: 10,000 devices need some tens of megabytes, and a batch is decoded again only
//! for a request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_api_types::metrics::MetricsSummary;
use muster_schemas::metrics::{InvalidBatch, MetricBatch};
use muster_schemas::selector::Requirement;
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::summary::{from_batch, matches};

/// Maximum number of groups that are kept of one device.
const MAX_GROUPS: usize = 16;
/// Maximum length of a group's name, in bytes.
const MAX_GROUP_NAME_BYTES: usize = 64;
/// Maximum size of all batches that are kept of one device, in bytes before compression; those of
/// an agent are 10 KB. Of a larger batch, only the summary is kept.
pub(super) const MAX_DEVICE_BYTES: usize = 128 * 1024;
/// Maximum number of points that are kept of one device; an agent sends about 100.
pub(super) const MAX_DEVICE_POINTS: usize = 2_000;

/// Maximum time by which a batch counts as newer than its receipt: a clock that
/// was once ahead must not block newer batches after it was corrected.
const MAX_AHEAD: Duration = Duration::from_secs(300);

/// The newest metrics of all devices; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LatestMetrics {
    devices: Arc<RwLock<HashMap<(ProjectId, DeviceId), Latest>>>,
}

#[derive(Clone, Debug, Default)]
struct Latest {
    received_at: Timestamp,
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Debug)]
struct Group {
    /// Time of the batch, but at most [`MAX_AHEAD`] after its receipt.
    time: Timestamp,
    received_at: Timestamp,
    summary: MetricsSummary,
    /// Encoded batch; empty for a batch that is too large.
    payload: Bytes,
    /// Size of the batch before compression, in bytes.
    bytes: usize,
    points: usize,
}

/// The newest batch of one group.
#[derive(Clone, Debug)]
pub struct LatestGroup {
    /// Name of the group.
    pub group: String,
    /// Time at which the broker received it.
    pub received_at: Timestamp,
    /// The batch.
    pub batch: MetricBatch,
}

impl LatestMetrics {
    /// Stores a received batch. The newest by its own time is kept, in any order of receipt; a time
    /// in the future is limited to 5 min after the receipt.
    ///
    /// # Errors
    /// When the batch cannot be decoded.
    pub fn update(
        &self,
        project: &ProjectId,
        device: DeviceId,
        group: &str,
        payload: &[u8],
        received_at: Timestamp,
    ) -> Result<(), InvalidBatch> {
        if group.len() > MAX_GROUP_NAME_BYTES {
            return Ok(());
        }
        let (batch, _) = MetricBatch::decode_valid_points(payload)?;
        let summary = from_batch(&batch);
        // Encoded again: the received batch may be compressed, include points that were dropped, or
        // be a slice of a larger buffer.
        let whole = batch.encode();
        let (bytes, points) = (whole.len(), batch.points.len());
        let mut devices = self.write();
        let latest = devices.entry((project.clone(), device)).or_default();
        latest.received_at = latest.received_at.max(received_at);
        let time = batch.time.min(received_at + MAX_AHEAD);
        let is_newest = latest.groups.get(group).is_none_or(|existing| existing.time <= time);
        if is_newest && (latest.groups.len() < MAX_GROUPS || latest.groups.contains_key(group)) {
            let others = || latest.groups.iter().filter(|(name, _)| *name != group);
            let others_bytes: usize = others().map(|(_, group)| group.bytes).sum();
            let others_points: usize = others().map(|(_, group)| group.points).sum();
            let fits = others_bytes + bytes <= MAX_DEVICE_BYTES
                && others_points + points <= MAX_DEVICE_POINTS;
            let group_state = if fits {
                Group { time, received_at, summary, payload: whole.into(), bytes, points }
            } else {
                Group { time, received_at, summary, payload: Bytes::new(), bytes: 0, points: 0 }
            };
            latest.groups.insert(group.to_owned(), group_state);
        }
        Ok(())
    }

    /// Returns the time at which metrics of a device were last received.
    #[must_use]
    pub fn last_seen(&self, project: &ProjectId, device: DeviceId) -> Option<Timestamp> {
        let devices = self.read();
        let latest = devices.get(&(project.clone(), device))?;
        Some(latest.received_at)
    }

    /// Returns a summary of a device's newest metrics, over all its groups.
    #[must_use]
    pub fn summary(&self, project: &ProjectId, device: DeviceId) -> Option<MetricsSummary> {
        let devices = self.read();
        let latest = devices.get(&(project.clone(), device))?;
        let mut groups: Vec<&Group> = latest.groups.values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.time));
        let summary =
            groups.iter().fold(MetricsSummary::default(), |sum, group| sum.or(group.summary));
        (!summary.is_empty()).then_some(summary)
    }

    /// Returns the devices of a project whose newest metrics match all of these requirements.
    #[must_use]
    pub fn matching(&self, project: &ProjectId, requirements: &[&Requirement]) -> Vec<DeviceId> {
        let candidates: Vec<(DeviceId, Vec<Bytes>)> = {
            let devices = self.read();
            let own = devices.iter().filter(|((of, _), _)| of == project);
            own.map(|((_, device), latest)| {
                (*device, latest.groups.values().map(|group| group.payload.clone()).collect())
            })
            .collect()
        };
        let fits = |payloads: &[Bytes]| {
            let batches: Vec<MetricBatch> =
                payloads.iter().filter_map(|bytes| MetricBatch::decode(bytes).ok()).collect();
            requirements.iter().all(|requirement| matches(requirement, &batches))
        };
        candidates.into_iter().filter(|(_, all)| fits(all)).map(|(device, _)| device).collect()
    }

    /// Returns the newest batch of each group of a device.
    #[must_use]
    pub fn groups(&self, project: &ProjectId, device: DeviceId) -> Vec<LatestGroup> {
        let groups = self
            .read()
            .get(&(project.clone(), device))
            .map(|latest| latest.groups.clone())
            .unwrap_or_default();
        groups
            .into_iter()
            .filter_map(|(group, state)| {
                Some(LatestGroup {
                    group,
                    received_at: state.received_at,
                    batch: MetricBatch::decode(&state.payload).ok()?,
                })
            })
            .collect()
    }

    /// Removes the devices for which `keep` is false.
    pub fn retain(&self, is_kept: impl Fn(&ProjectId, DeviceId) -> bool) {
        self.write().retain(|(project, device), _| is_kept(project, *device));
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<(ProjectId, DeviceId), Latest>> {
        self.devices.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<(ProjectId, DeviceId), Latest>> {
        self.devices.write()
    }
}
