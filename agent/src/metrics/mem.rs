//! `mem`: memory, with all fields of Telegraf's plugin on Linux.
//!
//! From `/proc/meminfo`, with a custom parser: the `procfs` crate panics on a malformed line and
//! refuses a kernel that lacks one of the lines it expects. Swap's traffic is in [`super::swap`].

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};
use super::value::percent;

pub(super) const MEMINFO: &str = "proc/meminfo";

/// Telegraf's field for a line of `/proc/meminfo` (proc_meminfo(5)); bytes, except for the two
/// counts of pages.
const FIELDS: &[(&str, &str)] = &[
    ("MemTotal", "total"),
    ("MemFree", "free"),
    ("MemAvailable", "available"),
    ("Buffers", "buffered"),
    ("Cached", "cached"),
    ("SwapCached", "swap_cached"),
    ("Active", "active"),
    ("Inactive", "inactive"),
    ("HighTotal", "high_total"),
    ("HighFree", "high_free"),
    ("LowTotal", "low_total"),
    ("LowFree", "low_free"),
    ("SwapTotal", "swap_total"),
    ("SwapFree", "swap_free"),
    ("Dirty", "dirty"),
    ("Writeback", "write_back"),
    ("Mapped", "mapped"),
    ("Shmem", "shared"),
    ("Slab", "slab"),
    ("SReclaimable", "sreclaimable"),
    ("SUnreclaim", "sunreclaim"),
    ("PageTables", "page_tables"),
    ("WritebackTmp", "write_back_tmp"),
    ("CommitLimit", "commit_limit"),
    ("Committed_AS", "committed_as"),
    ("VmallocTotal", "vmalloc_total"),
    ("VmallocUsed", "vmalloc_used"),
    ("VmallocChunk", "vmalloc_chunk"),
    ("HugePages_Total", "huge_pages_total"),
    ("HugePages_Free", "huge_pages_free"),
    ("Hugepagesize", "huge_page_size"),
];

/// The lines of `/proc/meminfo` that have a name in [`FIELDS`]; bytes, or pages.
pub(super) struct Meminfo([Option<u64>; FIELDS.len()]);

impl Meminfo {
    pub(super) fn parse(text: &str) -> Self {
        let mut values = [None; FIELDS.len()];
        for line in text.lines() {
            let Some((key, rest)) = line.split_once(':') else { continue };
            let Some(index) = FIELDS.iter().position(|(name, _)| *name == key) else { continue };
            let mut words = rest.split_ascii_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            let unit = if words.next() == Some("kB") { 1024 } else { 1 };
            values[index] = number.map(|number| number.saturating_mul(unit));
        }
        Self(values)
    }

    /// Returns the value of Telegraf's field.
    pub(super) fn get(&self, field: &str) -> Option<u64> {
        FIELDS.iter().position(|(_, name)| *name == field).and_then(|index| self.0[index])
    }
}

/// Stateless.
pub(super) struct Mem;

impl Collect for Mem {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let meminfo = Meminfo::parse(&files.text(MEMINFO)?);
        let point = point(&meminfo)
            .ok_or_else(|| files.malformed(MEMINFO, "the lines MemTotal and MemFree"))?;
        points.push(point);
        Ok(())
    }
}

fn point(meminfo: &Meminfo) -> Option<Point> {
    let total = meminfo.get("total").filter(|total| *total > 0)?;
    let free = meminfo.get("free")?;
    // As gopsutil computes it: reclaimable slab memory counts as cache.
    let cached =
        meminfo.get("cached").unwrap_or(0).saturating_add(meminfo.get("sreclaimable").unwrap_or(0));
    let available = meminfo
        .get("available")
        .unwrap_or_else(|| {
            free.saturating_add(meminfo.get("buffered").unwrap_or(0)).saturating_add(cached)
        })
        .min(total);
    // Since Telegraf 1.36 (gopsutil 4.25.8), as in `free`; earlier, it was total - free - buffered
    // - cached.
    let used = total - available;

    let mut point = Point::new("mem");
    for (index, (_, field)) in FIELDS.iter().enumerate() {
        // Telegraf writes 0 for fields that this kernel does not have (high memory on 64 bits).
        point = point.field(field, meminfo.0[index].unwrap_or(0));
    }
    Some(
        point
            .field("cached", cached)
            .field("available", available)
            .field("used", used)
            .field("used_percent", percent(used, total))
            .field("available_percent", percent(available, total)),
    )
}
