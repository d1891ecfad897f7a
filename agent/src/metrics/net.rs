//! `net`: the counters of the network interfaces since boot, for all that are up except loopback.
//!
//! Parsed by hand: the `procfs` crate refuses the whole file because of one unexpected line, or of
//! `eth0:123` without a space. Telegraf's protocol counters (`interface=all`) are omitted, as in
//! its newer default.

use std::collections::BTreeMap;

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};

const DEV: &str = "proc/net/dev";

/// Interval between readings of a link's speed, in rounds: a driver may have to query its hardware.
const SPEED_ROUNDS: u32 = 30;

/// Flags of an interface (netdevice(7)).
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;

struct Counters {
    name: String,
    received: [u64; 4],
    sent: [u64; 4],
}

/// Keeps the links' speeds.
#[derive(Default)]
pub(super) struct Net {
    speeds: BTreeMap<String, i64>,
    round: u32,
}

impl Collect for Net {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let interfaces: Vec<Counters> = files.text(DEV)?.lines().filter_map(parse).collect();
        if interfaces.is_empty() {
            return Err(files.malformed(DEV, "a single interface"));
        }
        if self.round.is_multiple_of(SPEED_ROUNDS) {
            self.speeds.clear();
        }
        self.round = self.round.wrapping_add(1);
        for counters in interfaces {
            if is_reported(files, &counters.name) {
                let speed = *self
                    .speeds
                    .entry(counters.name.clone())
                    .or_insert_with(|| speed(files, &counters.name));
                points.push(counters.point(speed));
            }
        }
        Ok(())
    }
}

/// Whether the interface is up, and not loopback. Without `/sys` (some containers) only `lo` is
/// excluded.
fn is_reported(files: &mut Files, name: &str) -> bool {
    let flags = files
        .line(&format!("sys/class/net/{name}/flags"))
        .and_then(|line| u32::from_str_radix(line.trim_start_matches("0x"), 16).ok());
    match flags {
        Some(flags) => flags & IFF_UP != 0 && flags & IFF_LOOPBACK == 0,
        None => name != "lo",
    }
}

/// Returns the speed in megabits per second; -1, as in Telegraf, if the link has none.
fn speed(files: &mut Files, name: &str) -> i64 {
    files
        .line(&format!("sys/class/net/{name}/speed"))
        .and_then(|line| line.parse().ok())
        .filter(|speed| *speed > 0)
        .unwrap_or(-1)
}

/// Parses `eth0: bytes packets errs drop fifo frame compressed multicast` and the same for sent.
fn parse(line: &str) -> Option<Counters> {
    let (name, numbers) = line.rsplit_once(':')?;
    let mut numbers = numbers.split_ascii_whitespace().map(str::parse::<u64>);
    let mut four = || -> Option<[u64; 4]> {
        Some([
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
        ])
    };
    let received = four()?;
    four()?;
    let sent = four()?;
    Some(Counters { name: name.trim().to_owned(), received, sent })
}

impl Counters {
    fn point(self, speed: i64) -> Point {
        let [bytes_recv, packets_recv, err_in, drop_in] = self.received;
        let [bytes_sent, packets_sent, err_out, drop_out] = self.sent;
        Point::new("net")
            .tag("interface", self.name)
            .field("bytes_sent", bytes_sent)
            .field("bytes_recv", bytes_recv)
            .field("packets_sent", packets_sent)
            .field("packets_recv", packets_recv)
            .field("err_in", err_in)
            .field("err_out", err_out)
            .field("drop_in", drop_in)
            .field("drop_out", drop_out)
            .field("speed", speed)
    }
}
