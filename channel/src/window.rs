//! The flow-control window: the bytes that are consumed in a quarter of a second, within limits.
//!
//! So a fast line is used fully at any latency, and on a slow one little data is queued ahead of
//! keystrokes in a shell, or of other channels.

use std::time::{Duration, Instant};

use crate::{INITIAL_WINDOW, MAX_WINDOW};

/// Time in which the window is consumed.
const TARGET_CONSUME_TIME: Duration = Duration::from_millis(250);
/// Interval over which the rate is measured.
const RATE_INTERVAL: Duration = Duration::from_millis(50);

/// The window that this side grants to the other.
#[derive(Debug)]
pub(crate) struct Window {
    size: u32,
    max: u32,
    since: Instant,
    consumed: u32,
}

impl Window {
    pub(crate) const fn new(now: Instant, max: u32) -> Self {
        Self { size: INITIAL_WINDOW, max, since: now, consumed: 0 }
    }

    /// Number of consumed bytes at which credit is due: before the other side has to wait.
    pub(crate) const fn due(&self) -> u32 {
        self.size / 4
    }

    /// Returns the credit for consumed bytes: more while the window grows, less while it shrinks.
    pub(crate) fn credit(&mut self, consumed: u32, now: Instant) -> u32 {
        self.consumed = self.consumed.saturating_add(consumed);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < RATE_INTERVAL {
            return consumed;
        }
        let ahead =
            u128::from(self.consumed) * TARGET_CONSUME_TIME.as_micros() / elapsed.as_micros();
        (self.since, self.consumed) = (now, 0);
        // A pause of the reader is not a property of the line: half of the window stays.
        let required = u32::try_from(ahead)
            .unwrap_or(MAX_WINDOW)
            .clamp(INITIAL_WINDOW, self.max)
            .max(self.size / 2);
        let before = self.size;
        self.size = required.max(before.saturating_sub(consumed));
        (consumed + self.size) - before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The window after reading for a while at this rate.
    fn after_a_while(window: &mut Window, now: &mut Instant, bytes_per_second: u32) -> u32 {
        let mut waiting = 0;
        for _ in 0..2_000 {
            *now += Duration::from_millis(10);
            waiting += bytes_per_second / 100;
            if waiting >= window.due() {
                window.credit(waiting, *now);
                waiting = 0;
            }
        }
        window.size
    }

    #[test]
    fn the_window_is_the_bytes_consumed_in_a_quarter_of_a_second() {
        let mut now = Instant::now();
        let mut window = Window::new(now, MAX_WINDOW);
        assert_eq!(after_a_while(&mut window, &mut now, 100_000), INITIAL_WINDOW, "a slow line");
        let size = after_a_while(&mut window, &mut now, 2_000_000);
        assert!((400_000..=600_000).contains(&size), "{size}");
        assert_eq!(after_a_while(&mut window, &mut now, 100_000_000), MAX_WINDOW, "a fast one");
        assert_eq!(
            after_a_while(&mut window, &mut now, 100_000),
            INITIAL_WINDOW,
            "a slow one again"
        );
    }

    #[test]
    fn a_fixed_window_does_not_grow() {
        let mut now = Instant::now();
        let mut window = Window::new(now, INITIAL_WINDOW);
        assert_eq!(after_a_while(&mut window, &mut now, 100_000_000), INITIAL_WINDOW);
    }

    #[test]
    fn the_window_fills_a_high_latency_connection() {
        // Half a window in each direction and back: 200 ms; the window arrives in that time.
        let mut now = Instant::now();
        let mut window = Window::new(now, MAX_WINDOW);
        for _ in 0..20 {
            now += Duration::from_millis(200);
            window.credit(window.size, now);
        }
        assert_eq!(window.size, MAX_WINDOW);
    }

    proptest! {
        #[test]
        fn granted_credit_equals_the_bytes_in_flight(
            steps in prop::collection::vec((0_u64..400, 0.0_f64..=1.0), 1..200),
        ) {
            let mut now = Instant::now();
            let mut window = Window::new(now, MAX_WINDOW);
            // The credit of the other side, and the bytes that it has sent.
            let mut free = INITIAL_WINDOW;
            let mut waiting = 0;
            for (millis, part) in steps {
                now += Duration::from_millis(millis);
                let sent = (f64::from(free) * part) as u32;
                (free, waiting) = (free - sent, waiting + sent);
                if waiting >= window.due() {
                    free += window.credit(waiting, now);
                    waiting = 0;
                }
                prop_assert_eq!(free + waiting, window.size);
                prop_assert!((INITIAL_WINDOW..=MAX_WINDOW).contains(&window.size));
            }
        }
    }
}
