//! The rate at which a device may request new epochs.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use muster_schemas::DeviceId;

/// Maximum burst of new epochs of a device.
const MAX_GRANT_BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Interval at which a device may request one more.
const GRANT_INTERVAL: Duration = Duration::from_secs(60);
/// Number of devices in the rate limiter at which idle ones are removed.
const MAX_TRACKED_DEVICES: usize = 10_000;

/// Rate limit of new epochs: each is two events and a stream.
#[derive(Debug)]
pub(super) struct EpochLimit(DefaultKeyedRateLimiter<DeviceId>);

impl Default for EpochLimit {
    fn default() -> Self {
        let quota =
            Quota::with_period(GRANT_INTERVAL).unwrap_or(Quota::per_minute(MAX_GRANT_BURST));
        Self(RateLimiter::keyed(quota.allow_burst(MAX_GRANT_BURST)))
    }
}

impl EpochLimit {
    /// Whether this device may have another epoch now; counts the request.
    pub(super) fn try_acquire(&self, device: DeviceId) -> bool {
        if self.0.len() > MAX_TRACKED_DEVICES {
            self.0.retain_recent();
        }
        self.0.check_key(&device).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_new_epochs_is_limited_per_device() {
        let limit = EpochLimit::default();
        let (one, other) = (DeviceId(uuid::Uuid::from_u128(1)), DeviceId(uuid::Uuid::from_u128(2)));
        let granted = (0..100).filter(|_| limit.try_acquire(one)).count();
        assert!((20..=21).contains(&granted), "{granted}");
        assert!(limit.try_acquire(other));
    }
}
