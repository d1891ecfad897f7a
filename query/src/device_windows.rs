//! Windows of lists of devices that live streams show. Clients with the same parameters share one
//! window: a task reads it again while a client needs it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use muster_api_types::metrics::WithoutFreshValue;
use muster_schemas::{DeviceId, Position};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Minimum interval between two reads of a window.
const MIN_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum share of time that the reads of a window take: 1 / this number.
const MAX_LOAD_DIVISOR: u32 = 10;
/// Maximum number of windows that are read concurrently. A window that waits is read less often.
const MAX_CONCURRENT_READS: usize = 4;
/// Maximum interval between two reads: the age of metrics changes without any event.
const MAX_INTERVAL: Duration = Duration::from_secs(5);

/// A part of a sorted list of devices, and the totals of the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    /// Position of the log that it includes.
    pub(crate) position: Position,
    /// Number of devices in the list, by status.
    pub(crate) status_counts: BTreeMap<String, u64>,
    /// Metrics of the selector of which devices had no fresh value.
    pub(crate) without_fresh_value: Vec<WithoutFreshValue>,
    /// The devices of the window, in the order of the list.
    pub(crate) items: Vec<(DeviceId, Map<String, Value>)>,
}

impl Window {
    /// Returns the number of devices in the list.
    pub(crate) fn total_count(&self) -> u64 {
        self.status_counts.values().sum()
    }
}

/// What a window depends on: the position of the read model, and the number of received metrics.
pub(crate) type Stamp = (Position, u64);

/// Reads a window.
pub(crate) trait ReadWindow: Send + Sync + 'static {
    /// Returns what the window depends on, without reading it.
    fn stamp(&self) -> Stamp;

    /// Reads the window; `None` when it cannot be read now.
    fn read(&self) -> impl Future<Output = Option<Window>> + Send;
}

/// The windows that are open, by their parameters; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DeviceWindows {
    open: Arc<Mutex<HashMap<String, Weak<SharedWindow>>>>,
    permits: Arc<Semaphore>,
}

impl Default for DeviceWindows {
    fn default() -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_READS));
        Self { open: Arc::default(), permits }
    }
}

/// A window that at least one client needs.
#[derive(Debug)]
pub(crate) struct SharedWindow {
    key: String,
    newest: watch::Receiver<Option<Arc<Window>>>,
    reader: AbortHandle,
    all: DeviceWindows,
}

impl DeviceWindows {
    /// Returns the window with these parameters; `reader` reads it if no other client has it open.
    pub(crate) fn open(&self, key: String, reader: impl ReadWindow) -> Arc<SharedWindow> {
        let mut open = self.open.lock();
        if let Some(shared) = open.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        let (sender, newest) = watch::channel(None);
        let reader = tokio::spawn(follow(reader, sender, self.permits.clone())).abort_handle();
        let shared = SharedWindow { key: key.clone(), newest, reader, all: self.clone() };
        let shared = Arc::new(shared);
        open.insert(key, Arc::downgrade(&shared));
        shared
    }

    /// Returns the number of open windows.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.open.lock().len()
    }
}

impl SharedWindow {
    /// Returns the newest window, and those that follow.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Window>>> {
        self.newest.clone()
    }
}

impl Drop for SharedWindow {
    fn drop(&mut self) {
        self.reader.abort();
        let mut open = self.all.open.lock();
        // Another client may have opened it again meanwhile.
        if open.get(&self.key).is_some_and(|shared| shared.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

/// Reads a window whenever what it depends on has changed, until the task is aborted.
async fn follow(
    reader: impl ReadWindow,
    newest: watch::Sender<Option<Arc<Window>>>,
    permits: Arc<Semaphore>,
) {
    let mut last: Option<(Stamp, Instant)> = None;
    loop {
        let stamp = reader.stamp();
        let is_due = last.is_none_or(|(of, at)| of != stamp || at.elapsed() >= MAX_INTERVAL);
        let mut started = Instant::now();
        if is_due
            && let Ok(_permit) = permits.acquire().await
            // The time of the read only: other windows do not slow this one down twice.
            && let Some(window) = {
                started = Instant::now();
                reader.read().await
            }
        {
            last = Some((stamp, started));
            newest.send_if_modified(|newest| {
                let is_new = newest.as_deref() != Some(&window);
                if is_new {
                    *newest = Some(Arc::new(window));
                }
                is_new
            });
        }
        let pause = (started.elapsed() * MAX_LOAD_DIVISOR).clamp(MIN_INTERVAL, MAX_INTERVAL);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts the reads; each read finds another position.
    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicU64>);

    impl ReadWindow for Counter {
        fn stamp(&self) -> Stamp {
            (Position::ZERO, self.0.load(Ordering::SeqCst))
        }

        async fn read(&self) -> Option<Window> {
            let position = Position(self.0.fetch_add(1, Ordering::SeqCst) + 1);
            Some(Window { position, ..Window::default() })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_with_the_same_parameters_share_one_reader_that_ends_with_the_last() {
        let windows = DeviceWindows::default();
        let counter = Counter::default();
        let clients: Vec<_> =
            (0..1_000).map(|_| windows.open("a".to_owned(), counter.clone())).collect();
        let other = windows.open("b".to_owned(), Counter::default());
        assert_eq!(windows.count(), 2);
        let mut newest = clients[0].subscribe();
        newest.changed().await.unwrap();
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_millis(1_750)).await;
        assert_eq!(counter.0.load(Ordering::SeqCst), 4, "twice a second");
        drop((clients, newest, other));
        assert_eq!(windows.count(), 0);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(counter.0.load(Ordering::SeqCst), 4, "the reader goes on");
    }

    /// Depends on nothing that changes.
    struct Constant(Arc<AtomicU64>);

    impl ReadWindow for Constant {
        fn stamp(&self) -> Stamp {
            (Position::ZERO, 0)
        }

        async fn read(&self) -> Option<Window> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Some(Window::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_is_read_rarely_while_nothing_changes() {
        let windows = DeviceWindows::default();
        let reads = Arc::new(AtomicU64::new(0));
        let shared = windows.open("a".to_owned(), Constant(reads.clone()));
        let mut newest = shared.subscribe();
        newest.changed().await.unwrap();
        tokio::time::sleep(Duration::from_secs(51)).await;
        let reads = reads.load(Ordering::SeqCst);
        assert!((8..=11).contains(&reads), "{reads}");
        assert!(!newest.has_changed().unwrap(), "equal windows are reported");
    }
}
