//! Exponential backoff with jitter, so that the devices of a fleet do not reconnect at the same
//! moment.
//!
//! The caller passes the random number, and decides when to stop trying.

use std::time::Duration;

/// Doubles from `first` to `limit`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits `first` after the first failure, and never longer than `limit`.
    #[must_use]
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// Backoff of a lost connection: 0.5 s to 8 s. The limit bounds how long a device stays
    /// disconnected after its servers have returned, independent of the length of the outage:
    /// including the connection and the hello that follow, at most 10 s.
    #[must_use]
    pub const fn reconnect() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(8))
    }

    /// Returns the delay: between half of the step and all of it, by `chance` (0 to 1).
    #[must_use]
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.limit);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Resets the delay after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_restart_after_a_reset() {
        let mut backoff = Backoff::reconnect();
        let waits: Vec<f64> = (0..7).map(|_| backoff.next_delay(1.0).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
        assert_eq!(backoff.next_delay(0.0), Duration::from_secs(4));
        backoff.reset();
        assert_eq!(backoff.next_delay(f64::MAX), Duration::from_millis(500));
    }
}
