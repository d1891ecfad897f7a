//! `wireless`: the quality of wireless links, if the kernel still provides `/proc/net/wireless`.
//!
//! Network names and keys are not read.

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};

const WIRELESS: &str = "proc/net/wireless";

/// Telegraf's fields in the order of the columns. Telegraf writes the last one as `beacon`,
/// although its manual calls it `missed_beacon`.
const FIELDS: [&str; 10] =
    ["status", "link", "level", "noise", "nwid", "crypt", "frag", "retry", "misc", "beacon"];

/// Stateless.
pub(super) struct Wireless;

impl Collect for Wireless {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let Some(text) = files.text_if_present(WIRELESS)? else { return Ok(()) };
        // The first two lines are headings.
        points.extend(text.lines().skip(2).filter_map(parse));
        Ok(())
    }
}

/// Parses `wlan0: 0000   60.  -50.  -256        0      0      0   1525      0        0`.
fn parse(line: &str) -> Option<Point> {
    let (name, numbers) = line.rsplit_once(':')?;
    let mut numbers = numbers.split_ascii_whitespace();
    let mut point = Point::new("wireless").tag("interface", name.trim());
    for field in FIELDS {
        let word = numbers.next()?;
        // The status is hexadecimal in the kernel's output; a trailing point marks a fresh value.
        let value = if field == "status" {
            i64::from_str_radix(word, 16).ok()?
        } else {
            word.trim_end_matches('.').parse().ok()?
        };
        point = point.field(field, value);
    }
    Some(point)
}
