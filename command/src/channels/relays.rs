//! The open relays of this process, which renews a lease in PostgreSQL for each of them.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Duration of a relay's lease. An expired lease is observed for the same time before it is reaped:
/// its process may have been without PostgreSQL, like this one.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(10);

/// The open relays.
#[derive(Debug)]
pub struct Relays {
    /// Cancelled when the process stops.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) process: Uuid,
    /// Relays whose leases this process renews.
    leased: Mutex<BTreeSet<Uuid>>,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            process: Uuid::new_v4(),
            leased: Mutex::default(),
        }
    }
}

impl Relays {
    /// Tracks a relay, so that shutdown waits for it.
    pub fn track<W: Future<Output = ()>>(&self, work: W) -> impl Future<Output = ()> + use<W> {
        self.tasks.track_future(work)
    }

    pub(super) fn leased(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.leased.lock()
    }
}
