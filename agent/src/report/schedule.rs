//! The schedule of samples: each group at the multiples of its own interval, so that groups that
//! are due at the same time are sent together.
//!
//! The caller passes the time as seconds since the first round.

use super::settings::SampleSettings;
use crate::metrics::{Group, GroupSet};

/// The rounds of samples.
#[derive(Debug, Default)]
pub(super) struct SampleSchedule {
    /// Time of the newest round, in seconds.
    last_round: Option<u64>,
}

fn seconds(settings: &SampleSettings, group: Group) -> u64 {
    settings.interval_of(group).as_secs().max(1)
}

impl SampleSchedule {
    /// Returns the time of the next round, in seconds; `None` if no group is sampled. It does not
    /// change until that round was taken, even if that is late.
    pub(super) fn next(&self, settings: &SampleSettings) -> Option<u64> {
        let Some(last) = self.last_round else { return Some(0) };
        settings
            .groups
            .iter()
            .map(|group| (last / seconds(settings, group) + 1) * seconds(settings, group))
            .min()
    }

    /// Returns the groups that have become due since the newest round, at `now` seconds. Rounds
    /// that were missed during suspend are merged into one.
    pub(super) fn start_round(&mut self, settings: &SampleSettings, now: u64) -> GroupSet {
        let last = self.last_round.replace(now);
        settings
            .groups
            .iter()
            .filter(|group| {
                let round_of = |second: u64| second / seconds(settings, *group);
                last.is_none_or(|last| round_of(now) > round_of(last))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(groups: &str, interval: u64, own: &[(Group, u64)]) -> SampleSettings {
        let interval = Duration::from_secs(interval);
        let groups = groups.parse().unwrap();
        let mut settings = SampleSettings { interval, groups, ..SampleSettings::default() };
        for (group, seconds) in own {
            settings.set_interval_of(*group, Duration::from_secs(*seconds));
        }
        settings
    }

    #[test]
    fn each_group_is_sampled_at_its_interval_and_sleep_is_skipped() {
        let now = settings("cpu,mem,disk", 4, &[(Group::Cpu, 2), (Group::Disk, 6)]);
        let mut rhythm = SampleSchedule::default();
        let mut rounds = Vec::new();
        for _ in 0..6 {
            let next = rhythm.next(&now).unwrap();
            assert_eq!(rhythm.next(&now), Some(next), "a round waits until it is taken");
            rounds.push(format!("{next}: {}", rhythm.start_round(&now, next)));
        }
        assert_eq!(
            rounds,
            ["0: cpu,mem,disk", "2: cpu", "4: cpu,mem", "6: cpu,disk", "8: cpu,mem", "10: cpu"]
        );
        // Late by a second: the due groups are sampled, and the next round is at its regular time.
        assert_eq!(rhythm.next(&now), Some(12));
        assert_eq!(rhythm.start_round(&now, 13).to_string(), "cpu,mem,disk");
        assert_eq!(rhythm.next(&now), Some(14));
        // Minutes of suspend: one round, immediately.
        assert_eq!(rhythm.start_round(&now, 1001).to_string(), "cpu,mem,disk");
        assert_eq!(rhythm.next(&now), Some(1002));
        let faster = settings("mem", 1, &[]);
        assert_eq!(rhythm.next(&faster), Some(1002));
        assert_eq!(rhythm.next(&settings("", 10, &[])), None);
    }
}
