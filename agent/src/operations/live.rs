//! Output beyond the stored part, for a reader that follows it while the program runs.
//!
//! It is never written to disk. While the buffer is full and a reader is connected, the program
//! blocks, as with a slow terminal. Without a reader the output is counted and dropped.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum number of buffered bytes before the program blocks.
const BUFFER_CAPACITY: usize = 256 * 1024;
/// Time from a run's start in which a reader may still come.
const READER_GRACE: Duration = Duration::from_secs(3);
/// A reader that no server has reported for this long is disconnected.
const READER_TTL: Duration = Duration::from_secs(15);

/// The part of one output that is streamed and not stored.
#[derive(Debug)]
pub(super) struct Live {
    buffer: VecDeque<u8>,
    /// Offset of the buffer in the output.
    offset: u64,
    /// Whether streaming has ended.
    is_over: bool,
    started_at: Instant,
    /// When a server last reported a reader.
    reader_seen_at: Option<Instant>,
}

impl Live {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            buffer: VecDeque::new(),
            offset: 0,
            is_over: false,
            started_at: now,
            reader_seen_at: None,
        }
    }

    /// Appends data that was written at `offset`, after all earlier data was appended.
    pub(super) fn push(&mut self, offset: u64, bytes: &[u8]) {
        if self.is_over || bytes.is_empty() {
            return;
        }
        if self.buffer.is_empty() {
            self.offset = offset;
        }
        self.buffer.extend(bytes);
    }

    fn has_reader(&self, now: Instant) -> bool {
        match self.reader_seen_at {
            Some(seen) => now.duration_since(seen) < READER_TTL,
            None => now.duration_since(self.started_at) < READER_GRACE,
        }
    }

    /// Whether the program has to wait. Without a reader it does not: buffered data is dropped.
    pub(super) fn is_blocked(&mut self, now: Instant) -> bool {
        if self.buffer.len() < BUFFER_CAPACITY {
            return false;
        }
        if !self.has_reader(now) {
            self.end();
        }
        !self.is_over
    }

    pub(super) fn unsent_bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Returns the next piece to send, of at most `most` bytes, and its offset.
    pub(super) fn piece(&self, max_bytes: usize) -> Option<(u64, Vec<u8>)> {
        let length = self.buffer.len().min(max_bytes);
        (length > 0).then(|| (self.offset, self.buffer.iter().take(length).copied().collect()))
    }

    /// Records whether there is a reader, which servers report in every response to a piece of this
    /// output.
    pub(super) fn set_reader(&mut self, has_reader: Option<bool>, now: Instant) {
        if has_reader == Some(true) {
            self.reader_seen_at = Some(now);
        }
    }

    /// Records that the server has everything before `next`. `has_reader` is `None` from servers
    /// that do not stream.
    pub(super) fn acknowledge(&mut self, next: u64, has_reader: Option<bool>, now: Instant) {
        self.set_reader(has_reader, now);
        let is_behind = next < self.offset;
        let taken = usize::try_from(next.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let taken = taken.min(self.buffer.len());
        self.buffer.drain(..taken);
        self.offset += taken as u64;
        if is_behind || has_reader.is_none() || !self.has_reader(now) {
            self.end();
        }
    }

    /// Ends streaming.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.buffer = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(now: Instant, bytes: usize) -> Live {
        let mut live = Live::new(now);
        live.push(100, &vec![b'x'; bytes]);
        live
    }

    #[test]
    fn acknowledged_output_is_removed_and_a_slow_reader_blocks_the_program() {
        let now = Instant::now();
        let mut live = Live::new(now);
        assert_eq!(live.piece(10), None);
        live.push(100, b"hello");
        live.push(105, b" world");
        assert_eq!(live.piece(7), Some((100, b"hello w".to_vec())));
        live.acknowledge(107, Some(true), now);
        assert_eq!(live.piece(99), Some((107, b"orld".to_vec())));
        assert!(!live.is_blocked(now));
        live.push(111, &vec![0; BUFFER_CAPACITY]);
        for seconds in (0..60).step_by(10) {
            let now = now + Duration::from_secs(seconds);
            assert!(live.is_blocked(now), "after {seconds} s");
            live.acknowledge(107, Some(true), now);
        }
    }

    #[test]
    fn without_a_reader_the_program_is_not_blocked() {
        let now = Instant::now();
        // No server has ever reported a reader; the device may be offline.
        let mut live = filled(now, BUFFER_CAPACITY);
        assert!(live.is_blocked(now + READER_GRACE / 2));
        assert!(!live.is_blocked(now + READER_GRACE));
        assert_eq!(live.unsent_bytes(), 0);
        live.push(100, b"more");
        assert_eq!(live.piece(9), None);
        // A reader has disconnected, or the device has lost its connection.
        let mut live = filled(now, BUFFER_CAPACITY);
        live.set_reader(Some(true), now);
        assert!(live.is_blocked(now + READER_TTL / 2));
        assert!(!live.is_blocked(now + READER_TTL));
        // A server that has just started does not know the reader yet.
        let mut live = filled(now, 5);
        live.set_reader(Some(true), now);
        live.acknowledge(100, Some(false), now + READER_TTL / 2);
        assert_eq!(live.unsent_bytes(), 5);
        live.acknowledge(100, Some(false), now + READER_TTL);
        assert_eq!(live.unsent_bytes(), 0);
        // A gap, and a server that does not stream.
        for (next, has_reader) in [(99, Some(true)), (103, None)] {
            let mut live = filled(now, 5);
            live.acknowledge(next, has_reader, now);
            assert_eq!(live.unsent_bytes(), 0);
        }
    }
}
