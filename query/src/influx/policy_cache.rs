//! The retention policies of a store, cached for a few seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

/// Time for which the list of retention policies is cached.
const POLICIES_TTL: Duration = Duration::from_secs(5);

/// The retention policies of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policies {
    pub(super) names: BTreeSet<String>,
    /// Whether the store is an InfluxDB 2.x, in which a policy is a bucket.
    pub(super) are_buckets: bool,
}

/// The cached policies of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyCache(Arc<Mutex<Option<CachedPolicies>>>);

impl PolicyCache {
    /// Returns the policies, unless they are too old.
    pub(super) fn current(&self) -> Option<Arc<Policies>> {
        let (when, policies) = self.lock().clone()?;
        (when.elapsed() < POLICIES_TTL).then_some(policies)
    }

    /// Caches policies that were read now.
    pub(super) fn store(&self, policies: Arc<Policies>) {
        *self.lock() = Some((Instant::now(), policies));
    }

    fn lock(&self) -> MutexGuard<'_, Option<CachedPolicies>> {
        self.0.lock()
    }
}

/// The policies, and the time at which they were read.
type CachedPolicies = (Instant, Arc<Policies>);
