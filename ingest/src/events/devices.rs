//! A cache of the log's knowledge of devices: keys, epochs, watermarks.
//!
//! The cache is never an authority: the append transaction checks it again, and stale entries are
//! reloaded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use muster_eventlog::{DeviceAccess, EventLog, StoreError};
use muster_schemas::{DeviceId, Hash, ProjectId};

use super::intake::{Claims, Key, is_news};

/// Maximum number of cached devices; beyond it the cache is cleared.
const REMEMBERED: usize = 50_000;
/// Minimum interval between lookups of an unknown device or key: garbage must not cause a query each.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Known {
    access: DeviceAccess,
    read_at: Instant,
}

/// The cache of one worker.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: HashMap<(ProjectId, DeviceId), Known>,
}

impl Devices {
    /// Loads missing devices.
    pub(super) async fn load(&mut self, log: &EventLog, claims: &Claims) -> Result<(), StoreError> {
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        let mut wanted: HashMap<ProjectId, Vec<DeviceId>> = HashMap::new();
        for ((project, device, epoch), claims) in claims {
            let fresh = match self.known.get(&(project.clone(), *device)) {
                Some(known) => {
                    !is_news(&known.access, *epoch, claims) || known.read_at.elapsed() < ASK_AGAIN
                }
                None => false,
            };
            if !fresh {
                wanted.entry(project.clone()).or_default().push(*device);
            }
        }
        for (project, devices) in wanted {
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
            self.known.insert((project.clone(), device), Known { access, read_at });
        }
        Ok(())
    }

    /// The cached state of a device; empty for a device that was not loaded.
    pub(super) fn access(&self, key: &Key) -> DeviceAccess {
        self.known
            .get(&(key.0.clone(), key.1))
            .map(|known| known.access.clone())
            .unwrap_or_default()
    }

    /// Updates the watermark after an append.
    pub(super) fn moved(&mut self, key: &Key, seq: u64, tip: Hash) {
        if let Some(known) = self.known.get_mut(&(key.0.clone(), key.1))
            && let Some(epoch) = known.access.epochs.iter_mut().find(|epoch| epoch.epoch == key.2)
        {
            (epoch.seq, epoch.tip) = (seq, tip);
        }
    }

    /// Removes a device, whose keys may have changed.
    pub(super) fn forget(&mut self, key: &Key) {
        self.known.remove(&(key.0.clone(), key.1));
    }
}
