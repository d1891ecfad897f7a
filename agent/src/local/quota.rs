//! Rate limit of applications' points, and the limit of distinct series.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use muster_schemas::metrics::Point;

/// Time without writes after which a series expires, in microseconds.
const SERIES_TTL_MICROS: u64 = 3600 * 1_000_000;
/// Minimum interval between searches for expired series, in microseconds.
const SWEEP_INTERVAL_MICROS: u64 = 10 * 1_000_000;
/// Capacity of the token bucket, in seconds of the rate: clients write in batches.
const BURST_SECS: u64 = 10;
/// Number of bytes that cost as much as one point.
const BYTES_PER_POINT: usize = 1024;

/// Limits of applications' metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Maximum number of distinct series per hour.
    pub series: u32,
    /// Maximum number of points per second.
    pub rate: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { series: 1000, rate: 500 }
    }
}

/// Enforces the limits. Times are those of the monotonic clock, in microseconds.
#[derive(Debug, Default)]
pub(super) struct QuotaLimiter {
    quota: Quota,
    /// Remaining credit, in millionths of a point.
    credit: u64,
    refilled_at: Option<u64>,
    /// Hash of each series, with the time of its last write. The hash key is random, so that an
    /// application cannot choose colliding names.
    series: HashMap<u64, u64>,
    hasher: RandomState,
    swept_at: u64,
}

impl QuotaLimiter {
    pub(super) fn set(&mut self, quota: Quota) {
        self.quota = quota;
    }

    pub(super) fn series(&self) -> usize {
        self.series.len()
    }

    /// Whether a point of this size may be read now; consumes the credit.
    pub(super) fn may_read(&mut self, bytes: usize, now: u64) -> bool {
        let rate = u64::from(self.quota.rate);
        let full = rate * BURST_SECS * 1_000_000;
        self.credit = match self.refilled_at {
            None => full,
            Some(before) => {
                let gained = now.saturating_sub(before).saturating_mul(rate);
                self.credit.saturating_add(gained).min(full)
            }
        };
        self.refilled_at = Some(now);
        let cost = (1 + (bytes / BYTES_PER_POINT) as u64) * 1_000_000;
        let may = self.credit >= cost;
        if may {
            self.credit -= cost;
        }
        may
    }

    /// Whether the point's series exists or may be added.
    pub(super) fn admits(&mut self, point: &Point, now: u64) -> bool {
        let hash = self.hasher.hash_one((&point.measurement, &point.tags));
        if let Some(written) = self.series.get_mut(&hash) {
            *written = now;
            return true;
        }
        let limit = self.quota.series as usize;
        if self.series.len() >= limit && now >= self.swept_at.saturating_add(SWEEP_INTERVAL_MICROS)
        {
            self.swept_at = now;
            self.series.retain(|_, written| now.saturating_sub(*written) < SERIES_TTL_MICROS);
        }
        if self.series.len() >= limit {
            return false;
        }
        self.series.insert(hash, now);
        true
    }
}
