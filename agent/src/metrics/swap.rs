//! `swap`: swap space in bytes, and the bytes moved in and out since boot.
//!
//! From `/proc/meminfo` and `/proc/vmstat`. A machine without swap reports zeros, as in Telegraf.

use muster_schemas::metrics::Point;
use nix::unistd::{SysconfVar, sysconf};

use super::collect::Collect;
use super::mem::{MEMINFO, Meminfo};
use super::source::{CollectError, Files};
use super::value::percent;

const VMSTAT: &str = "proc/vmstat";

/// Stateless.
pub(super) struct Swap;

impl Collect for Swap {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let meminfo = Meminfo::parse(&files.text(MEMINFO)?);
        let (Some(total), Some(free)) = (meminfo.get("swap_total"), meminfo.get("swap_free"))
        else {
            return Err(files.malformed(MEMINFO, "the lines SwapTotal and SwapFree"));
        };
        let used = total.saturating_sub(free);
        let mut point = Point::new("swap")
            .field("total", total)
            .field("free", free)
            .field("used", used)
            .field("used_percent", percent(used, total));
        // Without swap nothing was ever moved: skip reading the long file.
        let (moved_in, moved_out) =
            if total == 0 { (Some(0), Some(0)) } else { pages_moved(&files.text(VMSTAT)?) };
        let page = page_size();
        for (field, pages) in [("in", moved_in), ("out", moved_out)] {
            if let Some(pages) = pages {
                point = point.field(field, pages.saturating_mul(page));
            }
        }
        points.push(point);
        Ok(())
    }
}

/// Returns the pages moved in and out since boot (`pswpin` and `pswpout`).
fn pages_moved(text: &str) -> (Option<u64>, Option<u64>) {
    let find = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.trim().parse().ok())
    };
    (find("pswpin "), find("pswpout "))
}

/// Returns the page size of this machine, in bytes.
pub(super) fn page_size() -> u64 {
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}
