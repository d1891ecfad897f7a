//! `system`: load averages, number of CPUs, seconds since boot.
//!
//! Telegraf's `n_users` is omitted: utmp is being removed (Debian 13 has none), and its records
//! differ by architecture.

use muster_schemas::metrics::Point;
use procfs::{FromRead, LoadAverage, Uptime};

use super::collect::Collect;
use super::source::{CollectError, Files};
use super::value::{hundredths, whole};

const LOADAVG: &str = "proc/loadavg";
const UPTIME: &str = "proc/uptime";
const ONLINE: &str = "sys/devices/system/cpu/online";

/// Stateless.
pub(super) struct System;

impl Collect for System {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let load = LoadAverage::from_read(files.text(LOADAVG)?.as_bytes())
            .map_err(|_| files.malformed(LOADAVG, "three load averages"))?;
        let uptime = Uptime::from_read(files.text(UPTIME)?.as_bytes())
            .ok()
            .map(|uptime| uptime.uptime)
            .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
            .ok_or_else(|| files.malformed(UPTIME, "seconds since boot"))?;
        let mut point = Point::new("system")
            .field("load1", hundredths(f64::from(load.one)))
            .field("load5", hundredths(f64::from(load.five)))
            .field("load15", hundredths(f64::from(load.fifteen)))
            .field("uptime", whole(uptime));
        if let Some(cpus) = cpus_online(files) {
            point = point.field("n_cpus", cpus);
        }
        points.push(point);
        Ok(())
    }
}

/// Returns the number of CPUs online: from `/sys`, or, in a container that hides it, from the lines
/// of `/proc/stat`.
///
/// Not from `/proc/cpuinfo`, which queries every core for its frequency.
pub(crate) fn cpus_online(files: &mut Files) -> Option<u64> {
    if let Some(count) = files.line(ONLINE).and_then(|line| count_of_list(&line)) {
        return Some(count);
    }
    let text = files.text("proc/stat").ok()?;
    let count = text
        .lines()
        .take_while(|line| line.starts_with("cpu"))
        .filter(|line| line.as_bytes().get(3).is_some_and(u8::is_ascii_digit))
        .count();
    u64::try_from(count).ok().filter(|count| *count > 0)
}

/// Returns the number of CPUs in a list such as `0-3,8` (cpuset(7), list format).
fn count_of_list(list: &str) -> Option<u64> {
    let mut count = 0_u64;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::count_of_list;

    #[test]
    fn cpu_lists_are_counted() {
        for (list, expected) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-0", None),
            ("0-18446744073709551615", None),
            ("x", None),
        ] {
            assert_eq!(count_of_list(list), expected, "{list:?}");
        }
    }
}
