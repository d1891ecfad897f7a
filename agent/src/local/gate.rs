//! How much may come in: points a second, and different series.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use muster_schemas::metrics::Point;

/// A series that was not written to for this long makes room for another one, in microseconds.
const FORGOTTEN: u64 = 3600 * 1_000_000;
/// Forgotten series are looked for this often at most, in microseconds.
const SWEEP_EVERY: u64 = 10 * 1_000_000;
/// After silence, what would have come in so many seconds may come at once: clients write in
/// batches.
const BURST: u64 = 10;
/// A long text costs as much as a point for each so many bytes.
const BYTES_A_POINT: usize = 1024;

/// How much may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Different series within an hour.
    pub series: u32,
    /// Points a second.
    pub rate: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { series: 1000, rate: 500 }
    }
}

/// Counts what comes in. Times are the monotonic clock's, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Gate {
    quota: Quota,
    /// What may still come now, in millionths of a point.
    credit: u64,
    refilled: Option<u64>,
    /// The hash of each series, and when it was last written to. The hash's key is random, so that
    /// nobody can choose names that fall together.
    series: HashMap<u64, u64>,
    hasher: RandomState,
    swept: u64,
}

impl Gate {
    pub(super) fn set(&mut self, quota: Quota) {
        self.quota = quota;
    }

    pub(super) fn series(&self) -> usize {
        self.series.len()
    }

    /// May a point of this many bytes be read now?
    pub(super) fn may_read(&mut self, bytes: usize, now: u64) -> bool {
        let rate = u64::from(self.quota.rate);
        let full = rate * BURST * 1_000_000;
        self.credit = match self.refilled {
            None => full,
            Some(before) => {
                let gained = now.saturating_sub(before).saturating_mul(rate);
                self.credit.saturating_add(gained).min(full)
            }
        };
        self.refilled = Some(now);
        let cost = (1 + (bytes / BYTES_A_POINT) as u64) * 1_000_000;
        let may = self.credit >= cost;
        if may {
            self.credit -= cost;
        }
        may
    }

    /// Is this one of the series that may be?
    pub(super) fn admits(&mut self, point: &Point, now: u64) -> bool {
        let hash = self.hasher.hash_one((&point.measurement, &point.tags));
        if let Some(written) = self.series.get_mut(&hash) {
            *written = now;
            return true;
        }
        let limit = self.quota.series as usize;
        if self.series.len() >= limit && now >= self.swept.saturating_add(SWEEP_EVERY) {
            self.swept = now;
            self.series.retain(|_, written| now.saturating_sub(*written) < FORGOTTEN);
        }
        if self.series.len() >= limit {
            return false;
        }
        self.series.insert(hash, now);
        true
    }
}
