//! `diskio`: the counters of block devices and their partitions since boot.
//!
//! Loop and RAM devices are excluded, and devices without any I/O. The derived fields of newer
//! Telegraf (`io_util`, `io_await`, `io_svctm`) can be computed by dashboards.

use muster_schemas::metrics::Point;
use procfs::DiskStat;

use super::collect::Collect;
use super::source::{CollectError, Files};

const DISKSTATS: &str = "proc/diskstats";

/// Unit of the kernel's sector counters, in bytes, independent of the device's sector size.
const SECTOR: u64 = 512;

/// Stateless: the reader handles counters that decrease, as with Telegraf.
pub(super) struct Diskio;

impl Collect for Diskio {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        // A container or a diskless machine may lack the file, or have an empty one.
        let Some(text) = files.text_if_present(DISKSTATS)? else { return Ok(()) };
        let mut garbled = !text.trim().is_empty();
        for stat in text.lines().filter_map(|line| DiskStat::from_line(line).ok()) {
            garbled = false;
            if is_device(&stat.name) && (stat.reads > 0 || stat.writes > 0) {
                points.push(point(&stat));
            }
        }
        drop(text);
        if garbled {
            return Err(files.malformed(DISKSTATS, "a line of a device's counters"));
        }
        Ok(())
    }
}

fn is_device(name: &str) -> bool {
    !["loop", "ram"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Times are in milliseconds (kernel documentation, `admin-guide/iostats`).
fn point(stat: &DiskStat) -> Point {
    Point::new("diskio")
        .tag("name", stat.name.clone())
        .field("reads", stat.reads)
        .field("writes", stat.writes)
        .field("read_bytes", stat.sectors_read.saturating_mul(SECTOR))
        .field("write_bytes", stat.sectors_written.saturating_mul(SECTOR))
        .field("read_time", stat.time_reading)
        .field("write_time", stat.time_writing)
        .field("io_time", stat.time_in_progress)
        .field("weighted_io_time", stat.weighted_time_in_progress)
        .field("iops_in_progress", stat.in_progress)
        .field("merged_reads", stat.merged)
        .field("merged_writes", stat.writes_merged)
}
