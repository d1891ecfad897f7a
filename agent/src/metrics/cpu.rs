//! `cpu`: how each core, and all together, spent the time since the previous round.
//!
//! From `/proc/stat`, with a custom parser: the `procfs` crate drops the cores' names, so after a
//! core was taken offline it would attribute its number to the next one. Telegraf's `time_*` fields
//! are omitted, as in its sample configuration (`collect_cpu_time = false`).

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};
use super::value::percent;

const STAT: &str = "proc/stat";

/// Jiffies by state, in the order of `/proc/stat` (proc_stat(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    irq: u64,
    softirq: u64,
    steal: u64,
    guest: u64,
    guest_nice: u64,
}

impl Times {
    /// Parses the numbers after the core's name. Lines of older kernels have fewer numbers.
    fn parse<'a>(mut numbers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut values = [0_u64; 10];
        for (index, value) in values.iter_mut().enumerate() {
            match numbers.next() {
                Some(text) => *value = text.parse().ok()?,
                None if index < 4 => return None,
                None => break,
            }
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice] = values;
        Some(Self { user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice })
    }

    /// Returns the increase since `before`. A counter that has decreased counts as unchanged:
    /// iowait can decrease at any time, and all of them do when a core was offline.
    fn since(&self, previous: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(previous.user),
            nice: self.nice.saturating_sub(previous.nice),
            system: self.system.saturating_sub(previous.system),
            idle: self.idle.saturating_sub(previous.idle),
            iowait: self.iowait.saturating_sub(previous.iowait),
            irq: self.irq.saturating_sub(previous.irq),
            softirq: self.softirq.saturating_sub(previous.softirq),
            steal: self.steal.saturating_sub(previous.steal),
            guest: self.guest.saturating_sub(previous.guest),
            guest_nice: self.guest_nice.saturating_sub(previous.guest_nice),
        }
    }

    /// Returns the total time. Guest time is not added: the kernel already includes it in user and
    /// nice.
    fn total(&self) -> u64 {
        [
            self.user,
            self.nice,
            self.system,
            self.idle,
            self.iowait,
            self.irq,
            self.softirq,
            self.steal,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Computes Telegraf's percentages (`plugins/inputs/cpu`); `None` if no time has passed.
    fn point(&self, cpu: &str) -> Option<Point> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let share = |part: u64| percent(part.min(total), total);
        Some(
            Point::new("cpu")
                .tag("cpu", cpu)
                .field("usage_user", share(self.user.saturating_sub(self.guest)))
                .field("usage_system", share(self.system))
                .field("usage_idle", share(self.idle))
                .field("usage_nice", share(self.nice.saturating_sub(self.guest_nice)))
                .field("usage_iowait", share(self.iowait))
                .field("usage_irq", share(self.irq))
                .field("usage_softirq", share(self.softirq))
                .field("usage_steal", share(self.steal))
                .field("usage_guest", share(self.guest))
                .field("usage_guest_nice", share(self.guest_nice))
                .field("usage_active", share(total - self.idle)),
        )
    }
}

/// Keeps the previous reading.
#[derive(Default)]
pub(super) struct Cpu {
    previous: Vec<(String, Times)>,
}

impl Collect for Cpu {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let now = {
            let text = files.text(STAT)?;
            parse(&text)
        };
        let Some(now) = now.filter(|cpus| !cpus.is_empty()) else {
            self.previous.clear();
            return Err(files.malformed(STAT, "lines 'cpuN user nice system idle ...'"));
        };
        for (name, times) in &now {
            // A core that was missing in the previous round has no difference yet.
            if let Some((_, before)) = self.previous.iter().find(|(known, _)| known == name) {
                points.extend(times.since(before).point(name));
            }
        }
        self.previous = now;
        Ok(())
    }
}

/// Parses the cores with Telegraf's names; `cpu-total` is the kernel's own sum.
fn parse(text: &str) -> Option<Vec<(String, Times)>> {
    let mut cpus = Vec::new();
    for line in text.lines().take_while(|line| line.starts_with("cpu")) {
        let mut words = line.split_ascii_whitespace();
        let name = match words.next()? {
            "cpu" => "cpu-total",
            name => name,
        };
        cpus.push((name.to_owned(), Times::parse(words)?));
    }
    Some(cpus)
}
