//! Which groups of metrics are sampled, and when.

use std::time::Duration;

use crate::metrics::{Group, GroupSet};

/// Settings of the sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleSettings {
    /// Interval between two rounds of samples, in whole seconds.
    pub interval: Duration,
    /// Groups that are sampled.
    pub groups: GroupSet,
    /// Intervals of groups that differ from the default interval.
    pub(crate) own_intervals: [Option<Duration>; Group::ALL.len()],
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            groups: GroupSet::ALL,
            own_intervals: [None; Group::ALL.len()],
        }
    }
}

impl SampleSettings {
    /// Returns the interval between two samples of a group.
    #[must_use]
    pub fn interval_of(&self, group: Group) -> Duration {
        self.own_intervals.get(group as usize).copied().flatten().unwrap_or(self.interval)
    }

    /// Sets a group's own interval.
    pub fn set_interval_of(&mut self, group: Group, interval: Duration) {
        if let Some(own) = self.own_intervals.get_mut(group as usize) {
            *own = Some(interval);
        }
    }
}
