//! When to send a hello: after connecting, every 15 minutes, and after an inconsistency.

use std::time::{Duration, Instant};

use muster_schemas::wire::Hello;

use crate::backoff::Backoff;
use crate::outbox::Prover;

/// Interval between hellos without a reason.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// Minimum interval between hellos with a reason.
const GAP: Duration = Duration::from_secs(2);

/// Maximum interval between unanswered hellos. It bounds how long a device waits after its servers
/// have returned.
const FAILURE_LIMIT: Duration = Duration::from_secs(5);

/// A hello that was sent, and the state of the device at that time.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The hello.
    pub hello: Hello,
    /// The key that proves it.
    pub by: Prover,
    /// Sequence number of the newest event that the device knew to be in the log.
    pub confirmed: u64,
}

/// The schedule of hellos.
#[derive(Debug)]
pub(super) struct Rhythm {
    due: Option<Instant>,
    said: Option<Instant>,
    failures: Backoff,
    /// Number of consecutive hellos without a response.
    pub(super) unanswered: u32,
    pub(super) asked: Option<Asked>,
}

impl Default for Rhythm {
    fn default() -> Self {
        let failures = Backoff::new(Duration::from_secs(1), FAILURE_LIMIT);
        Self { due: None, said: None, failures, unanswered: 0, asked: None }
    }
}

impl Rhythm {
    /// Schedules a hello immediately, on a new connection.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = Some(now);
        self.said = None;
        self.asked = None;
        self.failures.reset();
        self.unanswered = 0;
    }

    /// Schedules a hello for a reason, after the delay `after` at the earliest.
    pub(super) fn hasten(&mut self, now: Instant, after: Duration) {
        let earliest = self.said.map_or(now, |said| said + GAP).max(now + after);
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// The response to the newest hello requires another one: it is due now.
    pub(super) fn follow_up(&mut self, now: Instant) {
        self.due = Some(now);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none() && self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn said(&mut self, asked: Asked, now: Instant) {
        self.asked = Some(asked);
        self.said = Some(now);
        self.due = None;
    }

    pub(super) fn answered(&mut self, now: Instant, chance: f64) {
        self.asked = None;
        self.failures.reset();
        self.unanswered = 0;
        // Spreads out a fleet that connected at the same moment.
        let next = now + EVERY.mul_f64(0.9 + chance / 5.0);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
    }

    pub(super) fn failed(&mut self, now: Instant, chance: f64) {
        self.asked = None;
        self.unanswered = self.unanswered.saturating_add(1);
        self.due = Some(now + self.failures.wait(chance));
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        if self.asked.is_some() { None } else { self.due }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_waits_for_the_gap_and_a_follow_up_does_not() {
        let now = Instant::now();
        let mut rhythm = Rhythm { said: Some(now), ..Rhythm::default() };
        rhythm.hasten(now, Duration::ZERO);
        assert!(!rhythm.is_due(now) && rhythm.is_due(now + GAP));
        rhythm.follow_up(now);
        assert!(rhythm.is_due(now));
    }
}
