//! Which groups are sampled when: each at the whole multiples of its own interval, so that what is
//! due together travels together.
//!
//! Knows no clock: seconds since the first round are handed in.

use crate::metrics::{Group, GroupSet};
use crate::run::Settings;

/// The rounds of samples.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// The second of the newest round.
    last: Option<u64>,
}

fn seconds(settings: &Settings, group: Group) -> u64 {
    settings.interval_of(group).as_secs().max(1)
}

impl Rhythm {
    /// The second of the next round, when `now` seconds have passed; `None` when no group is
    /// sampled. Rounds that were slept through are left out.
    pub(super) fn next(&self, settings: &Settings, now: u64) -> Option<u64> {
        let Some(last) = self.last else { return Some(0) };
        let from = last.max(now);
        settings
            .groups
            .iter()
            .map(|group| (from / seconds(settings, group) + 1) * seconds(settings, group))
            .min()
    }

    /// The groups that are due in the round of this second.
    pub(super) fn round(&mut self, settings: &Settings, second: u64) -> GroupSet {
        self.last = Some(second);
        settings
            .groups
            .iter()
            .filter(|group| second.is_multiple_of(seconds(settings, *group)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::read_settings;

    fn settings(vars: &[(&str, &str)]) -> Settings {
        let vars = vars
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), serde_json::from_str(value).unwrap()))
            .collect();
        let (settings, errors) = read_settings(&vars, &|_| Ok(()));
        assert!(errors.is_empty(), "{errors:?}");
        settings
    }

    #[test]
    fn each_group_has_its_multiples_and_sleep_is_left_out() {
        let now = settings(&[
            ("metrics.groups", r#""cpu,mem,disk""#),
            ("metrics.interval.cpu", "2"),
            ("metrics.interval.disk", "6"),
            ("metrics.interval", "4"),
        ]);
        let mut rhythm = Rhythm::default();
        let mut said = Vec::new();
        let mut second = 0;
        for _ in 0..6 {
            let next = rhythm.next(&now, second).unwrap();
            said.push(format!("{next}: {}", rhythm.round(&now, next)));
            second = next;
        }
        assert_eq!(
            said,
            ["0: cpu,mem,disk", "2: cpu", "4: cpu,mem", "6: cpu,disk", "8: cpu,mem", "10: cpu"]
        );
        assert_eq!(rhythm.next(&now, 1001), Some(1002));
        let faster = settings(&[("metrics.interval", "1"), ("metrics.groups", r#""mem""#)]);
        assert_eq!(rhythm.next(&faster, 10), Some(11));
        assert_eq!(rhythm.next(&settings(&[("metrics.groups", r#""""#)]), 10), None);
    }
}
