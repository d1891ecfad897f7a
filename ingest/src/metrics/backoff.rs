//! Delay before a request is sent again.
//!
//! Pure: the caller passes the randomness and waits.

use std::time::Duration;

/// Maximum delay that a store can request by `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Delays that double from `first` to `max`, each shortened by up to half at random, so that
/// the writers of all ingest processes do not retry at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next delay; `random` is between 0 and 1. A delay requested by the store is applied in
    /// full, up to a minute, and does not advance the backoff.
    pub(super) fn next_delay(&mut self, retry_after: Option<Duration>, random: f64) -> Duration {
        if let Some(requested) = retry_after {
            return requested.min(MAX_RETRY_AFTER)
                + self.next.mul_f64(random.clamp(0.0, 1.0) / 2.0);
        }
        let wait = self.next.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_limit_and_retry_after_is_respected() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        let waits: Vec<_> = (0..4).map(|_| backoff.next_delay(None, 0.0)).collect();
        assert_eq!(waits, [ms(100), ms(200), ms(350), ms(350)]);
        assert_eq!(backoff.next_delay(None, 1.0), ms(175));
        assert_eq!(backoff.next_delay(Some(ms(2000)), 0.0), ms(2000));
        assert_eq!(backoff.next_delay(Some(Duration::MAX), 0.0), MAX_RETRY_AFTER);
    }
}
