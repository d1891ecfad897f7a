//! `processes`: the number of processes by state, and of their threads.
//!
//! From `/proc/*/stat`, at about 8 µs per process (nearly all of it the kernel's) the most
//! expensive collector: so the buffers are reused, only the state and the thread count are parsed,
//! and on a machine with very many processes some rounds are skipped.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};

/// Number of processes up to which every round counts them; with n times as many, every (n+1)th
/// round does. So this collector needs less than 5 ms per round on average, independent of the
/// number of processes.
const MAX_COUNTED_EVERY_ROUND: u64 = 500;

#[derive(Default)]
struct Counts {
    blocked: u64,
    dead: u64,
    idle: u64,
    paging: u64,
    parked: u64,
    running: u64,
    sleeping: u64,
    stopped: u64,
    zombies: u64,
    unknown: u64,
    total: u64,
    threads: u64,
}

/// Keeps the number of rounds to skip.
#[derive(Default)]
pub(super) struct Processes {
    rounds_to_skip: u64,
    path: PathBuf,
}

impl Collect for Processes {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        if self.rounds_to_skip > 0 {
            self.rounds_to_skip -= 1;
            return Ok(());
        }
        let proc = files.path("proc");
        let entries = fs::read_dir(&proc)
            .map_err(|source| CollectError::Read { path: proc.clone(), source })?;
        let mut counts = Counts::default();
        // The state is in the first 40 bytes, the thread count before byte 400.
        let mut buffer = [0_u8; 512];
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            self.path.clear();
            self.path.push(&proc);
            self.path.push(&name);
            self.path.push("stat");
            // A process that ended since the folder was listed is not an error.
            let Ok(length) = File::open(&self.path).and_then(|mut file| file.read(&mut buffer))
            else {
                continue;
            };
            counts.add(&buffer[..length]);
        }
        if counts.total == 0 {
            return Err(CollectError::Malformed { path: proc, expected: "a single process" });
        }
        self.rounds_to_skip = counts.total / MAX_COUNTED_EVERY_ROUND;
        points.push(counts.point());
        Ok(())
    }
}

impl Counts {
    /// Adds one `/proc/PID/stat` (proc_pid_stat(5)).
    fn add(&mut self, stat: &[u8]) {
        // The name in parentheses may itself contain spaces and parentheses.
        let Some(end) = stat.iter().rposition(|byte| *byte == b')') else { return };
        let mut words = stat[end + 1..].split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let state = match words.next().and_then(|word| word.first()) {
            Some(b'R') => &mut self.running,
            Some(b'S') => &mut self.sleeping,
            Some(b'D') => &mut self.blocked,
            Some(b'Z') => &mut self.zombies,
            Some(b'X' | b'x') => &mut self.dead,
            Some(b'T' | b't') => &mut self.stopped,
            Some(b'W') => &mut self.paging,
            Some(b'I') => &mut self.idle,
            Some(b'P') => &mut self.parked,
            Some(_) => &mut self.unknown,
            None => return,
        };
        *state += 1;
        self.total += 1;
        // Field 20 of the line; the state was field 3.
        let threads = words
            .nth(16)
            .and_then(|word| std::str::from_utf8(word).ok())
            .and_then(|word| word.parse::<u64>().ok());
        self.threads = self.threads.saturating_add(threads.unwrap_or(0));
    }

    fn point(&self) -> Point {
        let point = Point::new("processes")
            .field("blocked", self.blocked)
            .field("dead", self.dead)
            .field("idle", self.idle)
            .field("paging", self.paging)
            .field("running", self.running)
            .field("sleeping", self.sleeping)
            .field("stopped", self.stopped)
            .field("zombies", self.zombies)
            .field("unknown", self.unknown)
            .field("total", self.total)
            .field("total_threads", self.threads);
        // As in Telegraf: only if there are any.
        if self.parked > 0 { point.field("parked", self.parked) } else { point }
    }
}
