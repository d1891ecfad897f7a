//! The devices' names, read from the log in groups, outside the reader's loop.
//!
//! A cached name is used immediately and read again when it is old: a renamed device keeps its old
//! `host` tag for a few seconds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_eventlog::EventLog;
use muster_schemas::events::{DeviceDeleted, DeviceRegistered, DeviceRenamed};
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, Event, ProjectId, StreamName};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot};

/// A device in its project.
pub(super) type ProjectDevice = (ProjectId, DeviceId);

/// Age at which a name is read again.
const CACHE_TTL: Duration = Duration::from_secs(30);
/// Time for which a missing device is not looked up again.
const MISSING_TTL: Duration = Duration::from_secs(2);
/// Maximum number of cached names.
const MAX_CACHED_NAMES: usize = 100_000;
/// Maximum number of devices in one query.
const MAX_DEVICES_PER_QUERY: usize = 1_000;
/// Delay before a failed query of the log is repeated.
const RETRY_DELAY: Duration = Duration::from_millis(500);

struct Entry {
    name: Option<DeviceName>,
    read_at: Instant,
    /// Whether it is being read again.
    is_refreshing: bool,
}

type NameRequest = (ProjectDevice, Option<oneshot::Sender<Option<DeviceName>>>);

/// The cached names; the task that reads them ends when this is dropped.
pub(super) struct NameCache {
    cached: Arc<Mutex<HashMap<ProjectDevice, Entry>>>,
    requests: mpsc::UnboundedSender<NameRequest>,
}

/// A name, or a receiver for it.
pub(super) enum NameLookup {
    /// Cached; `None` for a device that does not exist.
    Cached(Option<DeviceName>),
    /// Being read; closed when the reading task has ended.
    Pending(oneshot::Receiver<Option<DeviceName>>),
}

impl NameCache {
    /// Starts the task that reads names.
    pub(super) fn start(log: EventLog) -> Self {
        let cached = Arc::new(Mutex::new(HashMap::new()));
        let (requests, receiver) = mpsc::unbounded_channel();
        tokio::spawn(serve(log, cached.clone(), receiver));
        Self { cached, requests }
    }

    /// The name of a device.
    pub(super) fn lookup(&self, device: &ProjectDevice) -> NameLookup {
        if let Some(entry) = lock(&self.cached).get_mut(device) {
            let age = entry.read_at.elapsed();
            if entry.name.is_some() && age >= CACHE_TTL && !entry.is_refreshing {
                entry.is_refreshing = self.requests.send((device.clone(), None)).is_ok();
            }
            if entry.name.is_some() || age < MISSING_TTL {
                return NameLookup::Cached(entry.name.clone());
            }
        }
        let (done, awaited) = oneshot::channel();
        // If the task has ended, the dropped sender closes the receiver.
        let _ = self.requests.send((device.clone(), Some(done)));
        NameLookup::Pending(awaited)
    }
}

fn lock(
    cached: &Mutex<HashMap<ProjectDevice, Entry>>,
) -> MutexGuard<'_, HashMap<ProjectDevice, Entry>> {
    cached.lock()
}

/// Reads requested names until all [`NameCache`] are dropped.
async fn serve(
    log: EventLog,
    cached: Arc<Mutex<HashMap<ProjectDevice, Entry>>>,
    mut requests: mpsc::UnboundedReceiver<NameRequest>,
) {
    let mut some = Vec::new();
    while requests.recv_many(&mut some, MAX_DEVICES_PER_QUERY).await > 0 {
        let mut by_project: HashMap<ProjectId, HashSet<DeviceId>> = HashMap::new();
        for ((project, device), _) in &some {
            by_project.entry(project.clone()).or_default().insert(*device);
        }
        for (project, devices) in by_project {
            let names = read(&log, &project, &devices).await;
            let mut cache = lock(&cached);
            if cache.len() + names.len() > MAX_CACHED_NAMES {
                cache.clear();
            }
            let read_at = Instant::now();
            cache.extend(names.into_iter().map(|(device, name)| {
                ((project.clone(), device), Entry { name, read_at, is_refreshing: false })
            }));
        }
        for (who, done) in some.drain(..) {
            if let Some(done) = done {
                let name = lock(&cached).get(&who).and_then(|entry| entry.name.clone());
                // The receiver may have been dropped meanwhile.
                let _ = done.send(name);
            }
        }
    }
}

/// Reads names until the log responds. A failure is logged once.
async fn read(
    log: &EventLog,
    project: &ProjectId,
    devices: &HashSet<DeviceId>,
) -> HashMap<DeviceId, Option<DeviceName>> {
    let streams: Vec<StreamName> = devices.iter().copied().map(StreamName::Device).collect();
    let kinds = [DeviceRegistered::TYPE, DeviceRenamed::TYPE, DeviceDeleted::TYPE];
    let mut is_reported = false;
    let stored = loop {
        match log.read_streams(project, &streams, &kinds).await {
            Ok(stored) => break stored,
            Err(error) if !is_reported => {
                is_reported = true;
                tracing::warn!(%error, "failed to read the names of devices; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_DELAY).await;
    };
    let mut names: HashMap<DeviceId, Option<DeviceName>> =
        devices.iter().map(|device| (*device, None)).collect();
    for stored in stored {
        let StreamName::Device(device) = stored.stream else { continue };
        match stored.event() {
            Ok(Event::DeviceRegistered(event)) => names.insert(device, Some(event.name)),
            Ok(Event::DeviceRenamed(event)) => names.insert(device, Some(event.name)),
            Ok(Event::DeviceDeleted(_)) => names.insert(device, None),
            _ => None,
        };
    }
    names
}
