//! When a hello is said: after connecting, every 15 minutes, and when something is odd.

use std::time::{Duration, Instant};

use muster_schemas::wire::Hello;

use crate::backoff::Backoff;
use crate::outbox::Prover;

/// Hellos without a reason are this far apart.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// Hellos with a reason are at least this far apart.
const GAP: Duration = Duration::from_secs(2);

/// Maximum interval between hellos that are not answered. It bounds how long a device waits after its
/// servers have returned.
const FAILURE_LIMIT: Duration = Duration::from_secs(8);

/// A hello that was said, and what the device knew then.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What was said.
    pub hello: Hello,
    /// By which key it was proved.
    pub by: Prover,
    /// The newest event that the device knew the log to have.
    pub confirmed: u64,
}

/// The rhythm of hellos.
#[derive(Debug)]
pub(super) struct Rhythm {
    due: Option<Instant>,
    said: Option<Instant>,
    failures: Backoff,
    /// Hellos in a row that were not answered.
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
    /// A new connection: say hello at once.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = Some(now);
        self.said = None;
        self.asked = None;
        self.failures.reset();
        self.unanswered = 0;
    }

    /// There is a reason to say hello, `after` this long at the earliest.
    pub(super) fn hasten(&mut self, now: Instant, after: Duration) {
        let earliest = self.said.map_or(now, |said| said + GAP).max(now + after);
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
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
        // A fleet that connected in one moment spreads out.
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
