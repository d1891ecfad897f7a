//! When to send a hello: after connecting, every 15 minutes, and after an inconsistency.

use std::time::{Duration, Instant};

use muster_schemas::Seq;
use muster_schemas::wire::Hello;

use crate::backoff::Backoff;
use crate::outbox::Prover;

/// Interval between hellos without a reason.
const HELLO_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Minimum interval between hellos with a reason.
const MIN_HELLO_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum interval between unanswered hellos. It bounds how long a device waits after its servers
/// have returned.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A hello that was sent, and the state of the device at that time.
#[derive(Clone, Debug, PartialEq)]
pub struct SentHello {
    /// The hello.
    pub hello: Hello,
    /// The key that proves it.
    pub prover: Prover,
    /// Sequence number of the newest event that the device knew to be in the log.
    pub confirmed: Seq,
}

/// The schedule of hellos.
#[derive(Debug)]
pub(super) struct HelloSchedule {
    due_at: Option<Instant>,
    sent_at: Option<Instant>,
    failures: Backoff,
    /// Number of consecutive hellos without a response.
    pub(super) unanswered: u32,
    pub(super) pending: Option<SentHello>,
}

impl Default for HelloSchedule {
    fn default() -> Self {
        let failures = Backoff::new(Duration::from_secs(1), MAX_RETRY_INTERVAL);
        Self { due_at: None, sent_at: None, failures, unanswered: 0, pending: None }
    }
}

impl HelloSchedule {
    /// Schedules a hello immediately, on a new connection.
    pub(super) fn start(&mut self, now: Instant) {
        self.due_at = Some(now);
        self.sent_at = None;
        self.pending = None;
        self.failures.reset();
        self.unanswered = 0;
    }

    /// Schedules a hello for a reason, after the delay `after` at the earliest.
    pub(super) fn schedule(&mut self, now: Instant, delay: Duration) {
        let earliest = self.sent_at.map_or(now, |sent| sent + MIN_HELLO_INTERVAL).max(now + delay);
        self.due_at = Some(self.due_at.map_or(earliest, |due| due.min(earliest)));
    }

    /// The response to the newest hello requires another one: it is due now.
    pub(super) fn follow_up(&mut self, now: Instant) {
        self.due_at = Some(now);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.pending.is_none() && self.due_at.is_some_and(|due| due <= now)
    }

    pub(super) fn record_sent(&mut self, hello: SentHello, now: Instant) {
        self.pending = Some(hello);
        self.sent_at = Some(now);
        self.due_at = None;
    }

    pub(super) fn record_response(&mut self, now: Instant, chance: f64) {
        self.pending = None;
        self.failures.reset();
        self.unanswered = 0;
        // Spreads out a fleet that connected at the same moment.
        let next = now + HELLO_INTERVAL.mul_f64(0.9 + chance / 5.0);
        self.due_at = Some(self.due_at.map_or(next, |due| due.min(next)));
    }

    pub(super) fn record_failure(&mut self, now: Instant, chance: f64) {
        self.pending = None;
        self.unanswered = self.unanswered.saturating_add(1);
        self.due_at = Some(now + self.failures.next_delay(chance));
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        if self.pending.is_some() { None } else { self.due_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_hello_waits_for_the_minimum_interval_and_a_follow_up_does_not() {
        let now = Instant::now();
        let mut rhythm = HelloSchedule { sent_at: Some(now), ..HelloSchedule::default() };
        rhythm.schedule(now, Duration::ZERO);
        assert!(!rhythm.is_due(now) && rhythm.is_due(now + MIN_HELLO_INTERVAL));
        rhythm.follow_up(now);
        assert!(rhythm.is_due(now));
    }
}
