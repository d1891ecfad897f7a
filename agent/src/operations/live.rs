//! Output beyond what is kept, for a reader that follows it while the program runs.
//!
//! It is never written to the disk. While its buffer is full and a reader is there, the program waits,
//! as it would for a slow terminal. Without a reader it is counted and dropped.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that wait to be sent before the program waits.
const CAPACITY: usize = 256 * 1024;
/// Time from a run's start in which a reader may still come.
const READER_GRACE: Duration = Duration::from_secs(3);
/// Longest wait for any answer of a server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The part of one output that is only passed on.
#[derive(Debug)]
pub(super) struct Live {
    buffer: VecDeque<u8>,
    /// Where in the output the buffer begins.
    offset: u64,
    /// Nothing is passed on any more.
    is_over: bool,
    began: Instant,
    answered: Instant,
}

impl Live {
    pub(super) fn new(now: Instant) -> Self {
        Self { buffer: VecDeque::new(), offset: 0, is_over: false, began: now, answered: now }
    }

    /// Takes what was written at `offset`; what came before was taken, too.
    pub(super) fn push(&mut self, offset: u64, bytes: &[u8], now: Instant) {
        if self.is_over || bytes.is_empty() {
            return;
        }
        if self.buffer.is_empty() {
            self.offset = offset;
            self.answered = now;
        }
        self.buffer.extend(bytes);
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= CAPACITY
    }

    pub(super) fn waiting(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// What is to be sent next: at most `most` bytes, and where they begin.
    pub(super) fn piece(&self, most: usize) -> Option<(u64, Vec<u8>)> {
        let length = self.buffer.len().min(most);
        (length > 0).then(|| (self.offset, self.buffer.iter().take(length).copied().collect()))
    }

    /// The server has all before `next`. `has_reader` is `None` from servers that pass nothing on.
    pub(super) fn answered(&mut self, next: u64, has_reader: Option<bool>, now: Instant) {
        self.answered = now;
        let is_behind = next < self.offset;
        let taken = usize::try_from(next.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let taken = taken.min(self.buffer.len());
        self.buffer.drain(..taken);
        self.offset += taken as u64;
        let is_over = match has_reader {
            Some(true) => is_behind,
            Some(false) => is_behind || now.duration_since(self.began) > READER_GRACE,
            None => true,
        };
        if is_over {
            self.end();
        }
    }

    /// A request was not answered.
    pub(super) fn unanswered(&mut self, now: Instant) {
        if now.duration_since(self.answered) > ANSWER_TIMEOUT {
            self.end();
        }
    }

    /// Passes on nothing more.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.buffer = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_leaves_and_a_full_buffer_says_so() {
        let now = Instant::now();
        let mut live = Live::new(now);
        assert_eq!(live.piece(10), None);
        live.push(100, b"hello", now);
        live.push(105, b" world", now);
        assert_eq!(live.piece(7), Some((100, b"hello w".to_vec())));
        live.answered(107, Some(true), now);
        assert_eq!(live.piece(99), Some((107, b"orld".to_vec())));
        // The reader is slow: it stays.
        live.answered(107, Some(true), now + ANSWER_TIMEOUT * 2);
        assert_eq!(live.waiting(), 4);
        live.push(111, &vec![0; CAPACITY], now);
        assert!(live.is_full());
    }

    #[test]
    fn it_ends_without_a_reader_without_answers_and_behind_a_gap() {
        let now = Instant::now();
        let late = now + READER_GRACE * 2;
        let filled = || {
            let mut live = Live::new(now);
            live.push(100, b"hello", now);
            live
        };
        let mut live = filled();
        live.answered(100, Some(false), now);
        assert_eq!(live.waiting(), 5, "a reader may still come");
        live.answered(100, Some(false), late);
        assert_eq!(live.waiting(), 0);
        live.push(105, b"more", now);
        assert_eq!(live.piece(9), None);
        let mut live = filled();
        live.unanswered(now + ANSWER_TIMEOUT / 2);
        assert_eq!(live.waiting(), 5);
        live.unanswered(now + ANSWER_TIMEOUT * 2);
        assert_eq!(live.waiting(), 0);
        let mut live = filled();
        live.answered(99, Some(true), now);
        assert_eq!(live.waiting(), 0);
        // A server that passes nothing on.
        let mut live = filled();
        live.answered(103, None, now);
        assert_eq!(live.waiting(), 0);
    }
}
