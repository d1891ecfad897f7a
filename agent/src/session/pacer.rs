//! Which event is published next, and when: in order, a few at a time, and again when the log
//! does not confirm them.
//!
//! Reads no event: it counts.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::outbox::View;

/// At most this many events wait for the broker's confirmation.
pub const PUBLISH_WINDOW: u32 = 8;

/// When the log confirms nothing, this many events are tried first; when it takes those, the rest
/// follows at once. So a log that is down for hours is not sent the whole outbox each minute.
const PROBE: u64 = 64;

/// Maximum interval between attempts to publish while the broker stores nothing (its stream is missing
/// or full). Such messages leave nothing behind, so frequent attempts are cheap.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// Calls to send again from some place are followed at most this often: one gap causes several.
const JUMP_EVERY: Duration = Duration::from_secs(1);

/// The sender's place in the outbox.
#[derive(Clone, Debug)]
pub struct Pacer {
    next: u64,
    in_flight: u32,
    probe_end: Option<u64>,
    resend_at: Option<Instant>,
    resend: Backoff,
    stalled_until: Option<Instant>,
    stall: Backoff,
    jumped_at: Option<Instant>,
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            next: 1,
            in_flight: 0,
            probe_end: None,
            resend_at: None,
            resend: Backoff::new(Duration::from_secs(5), Duration::from_secs(60)),
            stalled_until: None,
            stall: Backoff::new(Duration::from_millis(500), STALL_LIMIT),
            jumped_at: None,
        }
    }
}

impl Pacer {
    /// A new connection, or a new epoch: everything that is not confirmed is sent (again).
    pub fn start(&mut self, view: &View) {
        self.next = view.confirmed + 1;
        self.in_flight = 0;
        self.probe_end = None;
        self.resend_at = None;
        self.resend.reset();
        self.stalled_until = None;
        self.stall.reset();
    }

    /// The event to publish now, if any.
    #[must_use]
    pub fn due(&mut self, view: &View, now: Instant) -> Option<u64> {
        let is_stalled = self.stalled_until.is_some_and(|until| until > now);
        if is_stalled || self.in_flight >= PUBLISH_WINDOW || view.is_waiting_for_epoch {
            return None;
        }
        self.next = self.next.max(view.confirmed + 1);
        let is_probed = self.probe_end.is_some_and(|end| self.next > end);
        (self.next <= view.last_seq && !is_probed).then_some(self.next)
    }

    /// [`Self::due`] was published.
    pub fn sent(&mut self, now: Instant) {
        self.next += 1;
        self.in_flight += 1;
        self.stalled_until = None;
        if self.resend_at.is_none() {
            self.resend_at = Some(now + self.resend.wait(1.0));
        }
    }

    /// The broker has stored the event, or not, or did not say.
    pub fn settled(&mut self, seq: u64, is_stored: bool, now: Instant, chance: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if is_stored {
            self.stall.reset();
        } else {
            // No stream, or no broker: from there on again, later. Order is what counts.
            if self.stalled_until.is_none_or(|until| until <= now) {
                self.stalled_until = Some(now + self.stall.wait(chance));
            }
            self.next = self.next.min(seq);
        }
    }

    /// An event of an epoch before was settled: nothing but its place in the window is free.
    pub fn settled_before(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The log has confirmed more.
    pub fn confirmed(&mut self, view: &View, now: Instant) {
        self.resend.reset();
        self.probe_end = None;
        let is_waiting = self.next > view.confirmed + 1;
        self.resend_at = is_waiting.then(|| now + self.resend.wait(1.0));
    }

    /// The log asks for everything from `seq` on.
    pub fn resend_from(&mut self, seq: u64, now: Instant) {
        if let Some(jumped) = self.jumped_at
            && now < jumped + JUMP_EVERY
        {
            let soon = jumped + JUMP_EVERY;
            self.resend_at = Some(self.resend_at.map_or(soon, |at| at.min(soon)));
            return;
        }
        self.jumped_at = Some(now);
        self.next = self.next.min(seq);
        self.probe_end = None;
    }

    /// The log has less than it had: what it lost is sent again.
    pub fn rewound(&mut self, view: &View) {
        self.next = view.confirmed + 1;
        self.probe_end = None;
    }

    /// When [`Self::tick`] or [`Self::due`] has something to say next.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let stalled = self.stalled_until.filter(|until| *until > now);
        [self.resend_at, stalled].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, view: &View, now: Instant, chance: f64) {
        if self.resend_at.is_none_or(|at| at > now) {
            return;
        }
        if view.unconfirmed() == 0 {
            self.resend_at = None;
            return;
        }
        self.next = view.confirmed + 1;
        self.probe_end = Some(view.confirmed + PROBE);
        self.resend_at = Some(now + self.resend.wait(chance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(confirmed: u64, last_seq: u64) -> View {
        View {
            epoch: 1,
            last_seq,
            confirmed,
            unconfirmed_bytes: 0,
            kept_bytes: 0,
            dropped: 0,
            is_waiting_for_epoch: false,
        }
    }

    fn send_all(pacer: &mut Pacer, view: &View, now: Instant) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some(seq) = pacer.due(view, now) {
            pacer.sent(now);
            sent.push(seq);
        }
        sent
    }

    #[test]
    fn a_window_is_sent_in_order_and_what_fails_is_sent_again_later() {
        let (mut pacer, now, all) = (Pacer::default(), Instant::now(), view(2, 30));
        pacer.start(&all);
        assert_eq!(send_all(&mut pacer, &all, now), (3..=10).collect::<Vec<_>>());
        pacer.settled(3, true, now, 1.0);
        assert_eq!(send_all(&mut pacer, &all, now), [11]);
        pacer.settled(4, false, now, 1.0);
        assert!(send_all(&mut pacer, &all, now).is_empty(), "the broker does not store");
        assert_eq!(pacer.wake_at(now), Some(now + Duration::from_millis(500)));
        assert_eq!(pacer.due(&all, now + Duration::from_millis(500)), Some(4));
    }

    #[test]
    fn what_is_not_confirmed_is_probed_later_and_later() {
        let (mut pacer, start, all) = (Pacer::default(), Instant::now(), view(0, 1000));
        pacer.start(&all);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..6 {
            while let Some(seq) = pacer.due(&all, now) {
                pacer.sent(now);
                pacer.settled(seq, true, now, 1.0);
            }
            let at = pacer.wake_at(now).unwrap();
            waits.push((at - now).as_secs());
            now = at;
            pacer.tick(&all, now, 1.0);
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        let mut probe = 0;
        while let Some(seq) = pacer.due(&all, now) {
            pacer.sent(now);
            pacer.settled(seq, true, now, 1.0);
            probe = seq;
        }
        assert_eq!(probe, PROBE);
        // The log takes them: the rest follows at once.
        let after = view(PROBE, 1000);
        pacer.confirmed(&after, now);
        assert_eq!(pacer.due(&after, now), Some(PROBE + 1));
    }

    #[test]
    fn calls_to_send_again_are_followed_once_a_second_and_never_forgotten() {
        let (mut pacer, now, all) = (Pacer::default(), Instant::now(), view(2, 5));
        pacer.start(&all);
        send_all(&mut pacer, &all, now);
        pacer.resend_from(3, now);
        assert_eq!(pacer.due(&all, now), Some(3));
        send_all(&mut pacer, &all, now);
        pacer.resend_from(3, now);
        assert_eq!(pacer.due(&all, now), None);
        assert_eq!(pacer.wake_at(now), Some(now + JUMP_EVERY));
    }
}
