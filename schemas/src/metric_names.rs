//! The table of well-known metric names: Telegraf's vocabulary, each with a number.
//!
//! On the wire a name of this table is its index. Invariant: the table is only extended, at its end;
//! a number never changes its meaning. `docs/protocol.md` refers to it.

use std::collections::HashMap;
use std::sync::OnceLock;

/// The names; a name's index is its number.
pub const NAMES: &[&str] = &[
    // 0: measurements
    "cpu",
    "mem",
    "swap",
    "system",
    "processes",
    "disk",
    "diskio",
    "net",
    "wireless",
    "temp",
    "battery",
    "muster_agent",
    "kernel",
    "netstat",
    "conntrack",
    "docker",
    "docker_container_cpu",
    "docker_container_mem",
    "docker_container_net",
    "docker_container_blkio",
    "docker_container_status",
    "docker_container_health",
    "procstat",
    "internet_speed",
    // 24: tags
    "host",
    "device",
    "fstype",
    "path",
    "mode",
    "label",
    "name",
    "interface",
    "sensor",
    "container_name",
    "container_image",
    "container_status",
    "container_version",
    "engine_host",
    // 38: cpu
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
    "usage_active",
    // 49: mem, swap, disk
    "total",
    "available",
    "used",
    "free",
    "cached",
    "buffered",
    "active",
    "inactive",
    "slab",
    "sreclaimable",
    "sunreclaim",
    "shared",
    "dirty",
    "writeback",
    "mapped",
    "page_tables",
    "vmalloc_total",
    "vmalloc_used",
    "vmalloc_chunk",
    "huge_pages_total",
    "huge_pages_free",
    "huge_page_size",
    "low_total",
    "low_free",
    "high_total",
    "high_free",
    "commit_limit",
    "committed_as",
    "write_back_tmp",
    "swap_total",
    "swap_free",
    "swap_cached",
    "available_percent",
    "used_percent",
    "in",
    "out",
    "inodes_total",
    "inodes_free",
    "inodes_used",
    "inodes_used_percent",
    // 89: system, processes
    "load1",
    "load5",
    "load15",
    "n_cpus",
    "n_users",
    "n_unique_users",
    "uptime",
    "uptime_format",
    "running",
    "sleeping",
    "stopped",
    "zombies",
    "blocked",
    "paging",
    "idle",
    "dead",
    "wait",
    "unknown",
    "parked",
    "total_threads",
    // 109: diskio
    "reads",
    "writes",
    "read_bytes",
    "write_bytes",
    "read_time",
    "write_time",
    "io_time",
    "weighted_io_time",
    "iops_in_progress",
    "merged_reads",
    "merged_writes",
    // 120: net, wireless
    "bytes_sent",
    "bytes_recv",
    "packets_sent",
    "packets_recv",
    "err_in",
    "err_out",
    "drop_in",
    "drop_out",
    "speed",
    "status",
    "level",
    "link",
    "noise",
    "nwid",
    "crypt",
    "frag",
    "retry",
    "misc",
    "missed_beacon",
    // 139: temp, battery
    "temp_high",
    "temp_crit",
    "percent",
    "voltage",
    "energy",
    "energy_full",
    "energy_rate",
    "temperature",
    "cycles",
    "state",
    "health",
    "time_to_full",
    "time_to_empty",
    "vendor",
    "model",
    // 154: the agent itself
    "rss",
    "cpu_seconds",
    "outbox_events",
    "outbox_bytes",
    "outbox_dropped",
    "backlog_batches",
    "backlog_bytes",
    "backlog_dropped",
    "events_acked",
    "batches_sent",
    "reconnects",
    "clock_skew_us",
    "connected_seconds",
    "bytes_out",
    "bytes_in",
    "rtt_us",
    "open_fds",
    "sample_us",
    // 172: wireless, with Telegraf's actual spelling
    "beacon",
];

fn numbers() -> &'static HashMap<&'static str, u16> {
    static NUMBERS: OnceLock<HashMap<&'static str, u16>> = OnceLock::new();
    NUMBERS
        .get_or_init(|| NAMES.iter().zip(0_u16..).map(|(name, number)| (*name, number)).collect())
}

/// The number of a well-known name.
#[must_use]
pub fn number(name: &str) -> Option<u16> {
    numbers().get(name).copied()
}

/// The well-known name with this number.
#[must_use]
pub fn name(number: u64) -> Option<&'static str> {
    usize::try_from(number).ok().and_then(|index| NAMES.get(index)).copied()
}

/// The static twin of a well-known name.
#[must_use]
pub fn well_known(text: &str) -> Option<&'static str> {
    number(text).and_then(|number| name(u64::from(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_occurs_once() {
        assert_eq!(numbers().len(), NAMES.len());
    }

    #[test]
    fn assigned_numbers_do_not_change() {
        for (index, expected) in [
            (0, "cpu"),
            (24, "host"),
            (38, "usage_user"),
            (49, "total"),
            (109, "reads"),
            (154, "rss"),
        ] {
            assert_eq!(name(index), Some(expected));
        }
        assert_eq!(name(u64::MAX), None);
    }
}
