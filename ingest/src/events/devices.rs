//! A cache of the log's knowledge of devices: keys, epochs, watermarks.
//!
//! The cache is never an authority: the append transaction checks it again, and stale entries are
//! reloaded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use muster_eventlog::{DeviceAccess, EventLog, StoreError};
use muster_schemas::{DeviceId, Hash, ProjectId, Seq};

use super::validation::{AttributedMessages, Key, needs_reload};

/// Maximum number of cached devices; beyond it the cache is cleared.
const MAX_CACHED_DEVICES: usize = 50_000;
/// Minimum interval between lookups of an unknown device or key: garbage must not cause a query each.
const MIN_RELOAD_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct CachedDevice {
    access: DeviceAccess,
    read_at: Instant,
}

/// The cache of one worker.
#[derive(Debug, Default)]
pub(super) struct DeviceCache {
    cached: HashMap<(ProjectId, DeviceId), CachedDevice>,
}

impl DeviceCache {
    /// Loads missing devices.
    pub(super) async fn load(
        &mut self,
        log: &EventLog,
        messages: &AttributedMessages,
    ) -> Result<(), StoreError> {
        if self.cached.len() > MAX_CACHED_DEVICES {
            self.cached.clear();
        }
        let mut required: HashMap<ProjectId, Vec<DeviceId>> = HashMap::new();
        for ((project, device, epoch), attributed) in messages {
            let fresh = match self.cached.get(&(project.clone(), *device)) {
                Some(cached) => {
                    !needs_reload(&cached.access, *epoch, attributed)
                        || cached.read_at.elapsed() < MIN_RELOAD_INTERVAL
                }
                None => false,
            };
            if !fresh {
                required.entry(project.clone()).or_default().push(*device);
            }
        }
        for (project, devices) in required {
            self.read(log, &project, &devices).await?;
        }
        Ok(())
    }

    /// Reloads devices.
    pub(super) async fn read(
        &mut self,
        log: &EventLog,
        project: &ProjectId,
        devices: &[DeviceId],
    ) -> Result<(), StoreError> {
        let read_at = Instant::now();
        for (device, access) in log.device_access(project, devices).await? {
            self.cached.insert((project.clone(), device), CachedDevice { access, read_at });
        }
        Ok(())
    }

    /// The cached state of a device; empty for a device that was not loaded.
    pub(super) fn access(&self, key: &Key) -> DeviceAccess {
        self.cached
            .get(&(key.0.clone(), key.1))
            .map(|cached| cached.access.clone())
            .unwrap_or_default()
    }

    /// Updates the watermark after an append.
    pub(super) fn advance_watermark(&mut self, key: &Key, seq: Seq, tip: Hash) {
        if let Some(cached) = self.cached.get_mut(&(key.0.clone(), key.1))
            && let Some(epoch) = cached.access.epochs.iter_mut().find(|epoch| epoch.epoch == key.2)
        {
            (epoch.seq, epoch.tip) = (seq, tip);
        }
    }

    /// Removes a device, whose keys may have changed.
    pub(super) fn remove(&mut self, key: &Key) {
        self.cached.remove(&(key.0.clone(), key.1));
    }
}
