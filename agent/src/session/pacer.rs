//! Decides which event is published next, and when: in order, a few at a time, and again if the log
//! does not confirm them. It counts events and does not read them.

use std::time::{Duration, Instant};

use muster_schemas::Seq;

use crate::backoff::Backoff;
use crate::outbox::View;

/// Maximum number of events that wait for the broker's confirmation.
pub const PUBLISH_WINDOW: u32 = 8;

/// Number of events that are sent first when the log confirms nothing; when it confirms them, the
/// rest follows immediately. So the agent does not resend the whole outbox to a log that is down
/// for hours.
const PROBE_EVENTS: u64 = 1;

/// Maximum interval between such attempts. It bounds how long a lost acknowledgment delays a device
/// after an outage. Meanwhile the attempts of a fleet accumulate in the stream, and ingest reads
/// them before new events: 400,000 messages of 10,000 devices in ten minutes.
const MAX_RESEND_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum interval between attempts to publish while the broker stores nothing (its stream is
/// missing or full). Such messages leave nothing behind, so frequent attempts are cheap.
const MAX_STALL_INTERVAL: Duration = Duration::from_secs(2);

/// Minimum interval between requests to resend that are followed: one gap causes several.
const MIN_JUMP_INTERVAL: Duration = Duration::from_secs(1);

/// The sender's position in the outbox.
#[derive(Clone, Debug)]
pub struct Pacer {
    next: Seq,
    in_flight: u32,
    probe_end: Option<Seq>,
    resend_at: Option<Instant>,
    resend: Backoff,
    stalled_until: Option<Instant>,
    stall: Backoff,
    jumped_at: Option<Instant>,
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            next: Seq::FIRST,
            in_flight: 0,
            probe_end: None,
            resend_at: None,
            resend: Backoff::new(Duration::from_secs(5), MAX_RESEND_INTERVAL),
            stalled_until: None,
            stall: Backoff::new(Duration::from_millis(500), MAX_STALL_INTERVAL),
            jumped_at: None,
        }
    }
}

impl Pacer {
    /// Starts over, on a new connection or in a new epoch: all unconfirmed events are sent (again).
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
    pub fn due(&mut self, view: &View, now: Instant) -> Option<Seq> {
        let is_stalled = self.stalled_until.is_some_and(|until| until > now);
        if is_stalled || self.in_flight >= PUBLISH_WINDOW || view.is_waiting_for_epoch {
            return None;
        }
        self.next = self.next.max(view.confirmed + 1);
        let is_probed = self.probe_end.is_some_and(|end| self.next > end);
        (self.next <= view.last_seq && !is_probed).then_some(self.next)
    }

    /// Records that [`Self::due`] was published.
    pub fn sent(&mut self, now: Instant) {
        self.next += 1;
        self.in_flight += 1;
        self.stalled_until = None;
        if self.resend_at.is_none() {
            self.resend_at = Some(now + self.resend.next_delay(1.0));
        }
    }

    /// Records the broker's reply: the event was stored, was refused, or there was no reply.
    pub fn on_reply(&mut self, seq: Seq, is_stored: bool, now: Instant, chance: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if is_stored {
            self.stall.reset();
        } else {
            // The stream or the broker is unavailable: resume from this event later, to keep the
            // order.
            if self.stalled_until.is_none_or(|until| until <= now) {
                self.stalled_until = Some(now + self.stall.next_delay(chance));
            }
            self.next = self.next.min(seq);
        }
    }

    /// Records a reply to an event of an earlier epoch: it only frees its slot in the window.
    pub fn on_earlier_reply(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records that the log has confirmed more events.
    pub fn confirmed(&mut self, view: &View, now: Instant) {
        self.resend.reset();
        self.probe_end = None;
        let is_waiting = self.next > view.confirmed + 1;
        self.resend_at = is_waiting.then(|| now + self.resend.next_delay(1.0));
    }

    /// Resends everything from `seq`, because the log requested it.
    pub fn resend_from(&mut self, seq: Seq, now: Instant) {
        if let Some(jumped) = self.jumped_at
            && now < jumped + MIN_JUMP_INTERVAL
        {
            let soon = jumped + MIN_JUMP_INTERVAL;
            self.resend_at = Some(self.resend_at.map_or(soon, |at| at.min(soon)));
            return;
        }
        self.jumped_at = Some(now);
        self.next = self.next.min(seq);
        self.probe_end = None;
    }

    /// Resends what the log has lost.
    pub fn rewound(&mut self, view: &View) {
        self.next = view.confirmed + 1;
        self.probe_end = None;
    }

    /// Time at which [`Self::tick`] or [`Self::due`] has the next action.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let stalled = self.stalled_until.filter(|until| *until > now);
        [self.resend_at, stalled].into_iter().flatten().min()
    }

    /// Handles the passage of time.
    pub fn tick(&mut self, view: &View, now: Instant, chance: f64) {
        if self.resend_at.is_none_or(|at| at > now) {
            return;
        }
        if view.unconfirmed() == 0 {
            self.resend_at = None;
            return;
        }
        self.next = view.confirmed + 1;
        self.probe_end = Some(view.confirmed + PROBE_EVENTS);
        self.resend_at = Some(now + self.resend.next_delay(chance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_schemas::Epoch;

    fn view(confirmed: Seq, last_seq: Seq) -> View {
        View {
            epoch: Epoch::FIRST,
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
            sent.push(seq.get());
        }
        sent
    }

    #[test]
    fn a_window_is_sent_in_order_and_failed_events_are_resent() {
        let (mut pacer, now, all) = (Pacer::default(), Instant::now(), view(Seq(2), Seq(30)));
        pacer.start(&all);
        assert_eq!(send_all(&mut pacer, &all, now), (3..=10).collect::<Vec<_>>());
        pacer.on_reply(Seq(3), true, now, 1.0);
        assert_eq!(send_all(&mut pacer, &all, now), [11]);
        pacer.on_reply(Seq(4), false, now, 1.0);
        assert!(send_all(&mut pacer, &all, now).is_empty(), "the broker does not store");
        assert_eq!(pacer.wake_at(now), Some(now + Duration::from_millis(500)));
        assert_eq!(pacer.due(&all, now + Duration::from_millis(500)), Some(Seq(4)));
    }

    #[test]
    fn unconfirmed_events_are_probed_with_one_event_every_few_seconds() {
        let (mut pacer, start, all) =
            (Pacer::default(), Instant::now(), view(Seq::ZERO, Seq(1000)));
        pacer.start(&all);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..6 {
            while let Some(seq) = pacer.due(&all, now) {
                pacer.sent(now);
                pacer.on_reply(seq, true, now, 1.0);
            }
            let at = pacer.wake_at(now).unwrap();
            waits.push((at - now).as_secs());
            now = at;
            pacer.tick(&all, now, 1.0);
        }
        assert_eq!(waits, [5, 10, 15, 15, 15, 15]);
        let mut probe = 0;
        while let Some(seq) = pacer.due(&all, now) {
            pacer.sent(now);
            pacer.on_reply(seq, true, now, 1.0);
            probe = seq.get();
        }
        assert_eq!(probe, PROBE_EVENTS);
        // The log confirms them: the rest follows immediately.
        let after = view(Seq(PROBE_EVENTS), Seq(1000));
        pacer.confirmed(&after, now);
        assert_eq!(pacer.due(&after, now), Some(Seq(PROBE_EVENTS + 1)));
    }

    #[test]
    fn resend_requests_are_followed_at_most_once_per_second_and_never_lost() {
        let (mut pacer, now, all) = (Pacer::default(), Instant::now(), view(Seq(2), Seq(5)));
        pacer.start(&all);
        send_all(&mut pacer, &all, now);
        pacer.resend_from(Seq(3), now);
        assert_eq!(pacer.due(&all, now), Some(Seq(3)));
        send_all(&mut pacer, &all, now);
        pacer.resend_from(Seq(3), now);
        assert_eq!(pacer.due(&all, now), None);
        assert_eq!(pacer.wake_at(now), Some(now + MIN_JUMP_INTERVAL));
    }
}
