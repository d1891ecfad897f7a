//! All collectors together: one call takes one round of samples.
//!
//! The caller schedules, timestamps and sends. Synchronous and fast; run it on the caller's thread.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::group::{Group, GroupSet};
use super::own::{AgentCounters, Own};
use super::source::{CollectError, Files};
use super::{battery, cpu, disk, diskio, mem, net, processes, swap, system, temp, wireless};

/// The collectors of one machine, with their state between rounds.
pub struct Collectors {
    files: Files,
    collectors: Vec<(Group, Box<dyn Collect>)>,
    own: Own,
    /// Groups whose last round failed: a failure is logged once, not every 10 s.
    failing: BTreeSet<Group>,
    /// Duration of the previous round, in microseconds.
    sample_us: u64,
}

impl Collectors {
    /// Creates collectors that read below `root`: `/`, or a folder of fixtures.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let collectors: Vec<(Group, Box<dyn Collect>)> = vec![
            (Group::Cpu, Box::new(cpu::Cpu::default())),
            (Group::Mem, Box::new(mem::Mem)),
            (Group::Swap, Box::new(swap::Swap)),
            (Group::System, Box::new(system::System)),
            (Group::Processes, Box::new(processes::Processes::default())),
            (Group::Disk, Box::new(disk::Disk)),
            (Group::Diskio, Box::new(diskio::Diskio)),
            (Group::Net, Box::new(net::Net::default())),
            (Group::Wireless, Box::new(wireless::Wireless)),
            (Group::Temp, Box::new(temp::Temp::default())),
            (Group::Battery, Box::new(battery::Battery)),
        ];
        Self {
            files: Files::new(root),
            collectors,
            own: Own,
            failing: BTreeSet::new(),
            sample_us: 0,
        }
    }

    /// Takes one round of samples of these groups.
    ///
    /// A group that cannot be read, or has no value yet (`cpu` in its first round), adds no point;
    /// the call itself never fails. All points have offset 0: they belong to the moment of the
    /// call. `sample_us` of `muster_agent` is the duration of the previous round.
    pub fn sample(&mut self, groups: GroupSet, agent: &AgentCounters) -> Vec<Point> {
        let start = Instant::now();
        let mut points = Vec::with_capacity(32);
        for (group, collector) in &mut self.collectors {
            if groups.contains(*group) {
                let before = points.len();
                let outcome = collector.collect(&mut self.files, &mut points);
                if outcome.is_err() {
                    points.truncate(before);
                }
                record_outcome(&mut self.failing, *group, outcome);
            }
        }
        if groups.contains(Group::MusterAgent) {
            let outcome = self
                .own
                .collect(&mut self.files, agent, self.sample_us)
                .map(|point| points.push(point));
            record_outcome(&mut self.failing, Group::MusterAgent, outcome);
        }
        self.sample_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        points
    }

    /// Returns the groups whose last round failed.
    #[must_use]
    pub fn failing(&self) -> GroupSet {
        self.failing.iter().copied().collect()
    }
}

/// Logs the first of consecutive failures, and the recovery.
fn record_outcome(failing: &mut BTreeSet<Group>, group: Group, outcome: Result<(), CollectError>) {
    match outcome {
        Ok(()) => {
            if failing.remove(&group) {
                tracing::info!(%group, "a group of metrics is collected again");
            }
        }
        Err(error) => {
            if failing.insert(group) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(
                    %group,
                    cause = cause.as_deref().unwrap_or_default(),
                    "{error}; the group is skipped until it can be collected again"
                );
            }
        }
    }
}
