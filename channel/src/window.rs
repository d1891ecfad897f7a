//! How many bytes may be on their way: as many as are taken in a quarter of a second, within limits.
//!
//! So a fast line is full however long it is, and on a slow one nothing waits behind much more than it
//! can carry: what is typed in a shell, or said on another channel.

use std::time::{Duration, Instant};

use crate::{LEAST, WINDOW};

/// What is on its way is taken in this time.
const AHEAD: Duration = Duration::from_millis(250);
/// How long it is measured how much is taken.
const MEASURED: Duration = Duration::from_millis(50);

/// The window that this side grants to the other.
#[derive(Debug)]
pub(crate) struct Window {
    size: u32,
    most: u32,
    since: Instant,
    taken: u32,
}

impl Window {
    pub(crate) const fn new(now: Instant, most: u32) -> Self {
        Self { size: LEAST, most, since: now, taken: 0 }
    }

    /// Bytes may be credited when so many were taken: before the other side has to wait.
    pub(crate) const fn due(&self) -> u32 {
        self.size / 4
    }

    /// Bytes were taken; how many are credited for them: more where the window grows, fewer where it
    /// shrinks.
    pub(crate) fn credit(&mut self, taken: u32, now: Instant) -> u32 {
        self.taken = self.taken.saturating_add(taken);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < MEASURED {
            return taken;
        }
        let ahead = u128::from(self.taken) * AHEAD.as_micros() / elapsed.as_micros();
        (self.since, self.taken) = (now, 0);
        // A pause of the reader is not the line's: half of it stays.
        let wanted =
            u32::try_from(ahead).unwrap_or(WINDOW).clamp(LEAST, self.most).max(self.size / 2);
        let before = self.size;
        self.size = wanted.max(before.saturating_sub(taken));
        (taken + self.size) - before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The window after a line of so many bytes a second was read for a while.
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
    fn it_is_what_is_taken_in_a_quarter_of_a_second() {
        let mut now = Instant::now();
        let mut window = Window::new(now, WINDOW);
        assert_eq!(after_a_while(&mut window, &mut now, 100_000), LEAST, "a slow line");
        let size = after_a_while(&mut window, &mut now, 2_000_000);
        assert!((400_000..=600_000).contains(&size), "{size}");
        assert_eq!(after_a_while(&mut window, &mut now, 100_000_000), WINDOW, "a fast one");
        assert_eq!(after_a_while(&mut window, &mut now, 100_000), LEAST, "a slow one again");
    }

    #[test]
    fn one_that_may_not_grow_stays() {
        let mut now = Instant::now();
        let mut window = Window::new(now, LEAST);
        assert_eq!(after_a_while(&mut window, &mut now, 100_000_000), LEAST);
    }

    #[test]
    fn a_long_line_is_filled() {
        // Half a window each way and back: 200 ms; as much as is on its way arrives in that time.
        let mut now = Instant::now();
        let mut window = Window::new(now, WINDOW);
        for _ in 0..20 {
            now += Duration::from_millis(200);
            window.credit(window.size, now);
        }
        assert_eq!(window.size, WINDOW);
    }

    proptest! {
        #[test]
        fn what_is_granted_is_what_is_on_its_way(
            steps in prop::collection::vec((0_u64..400, 0.0_f64..=1.0), 1..200),
        ) {
            let mut now = Instant::now();
            let mut window = Window::new(now, WINDOW);
            // What the other side may say, and what it has said.
            let mut free = LEAST;
            let mut waiting = 0;
            for (millis, part) in steps {
                now += Duration::from_millis(millis);
                let said = (f64::from(free) * part) as u32;
                (free, waiting) = (free - said, waiting + said);
                if waiting >= window.due() {
                    free += window.credit(waiting, now);
                    waiting = 0;
                }
                prop_assert_eq!(free + waiting, window.size);
                prop_assert!((LEAST..=WINDOW).contains(&window.size));
            }
        }
    }
}
