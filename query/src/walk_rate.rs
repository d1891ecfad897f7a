//! Limits the number of lists by `last_seen_at` that a token starts: each reads and sorts all devices
//! of a project, and stores their order in PostgreSQL if it has several pages.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter};
use muster_api::Problem;
use muster_api::problem::{Kind, RateLimit};
use muster_schemas::TokenId;
use parking_lot::{Mutex, MutexGuard};

/// Default maximum number of lists of several pages by `last_seen_at` that a token starts in a minute.
pub const DEFAULT_WALKS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// Maximum number of tokens with a bucket, beyond which full buckets are removed.
const MAX_TRACKED_TOKENS: usize = 10_000;
const REFUSED: &str = "muster_list_walks_refused_total";

/// A token bucket for each API token, whose capacity is the number of lists that it may start in a
/// minute; cheap to clone.
#[derive(Clone, Debug)]
pub struct WalkRate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    per_minute: NonZeroU32,
    buckets: Mutex<HashMap<TokenId, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    remaining: f64,
    updated_at: Instant,
}

impl WalkRate {
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        describe_counter!(
            REFUSED,
            "lists by last_seen_at refused, because their token started too many"
        );
        Self(Arc::new(Shared { per_minute, buckets: Mutex::default() }))
    }

    /// Checks that the token may start a list now. Called before the devices are read.
    ///
    /// # Errors
    /// 429 when it may not.
    pub(crate) fn check(&self, token: TokenId) -> Result<(), Problem> {
        self.check_at(token, Instant::now())
    }

    /// Counts a list that has several pages.
    ///
    /// # Errors
    /// 429 when the token has started too many meanwhile.
    pub(crate) fn start(&self, token: TokenId) -> Result<(), Problem> {
        self.start_at(token, Instant::now())
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<TokenId, Bucket>> {
        self.0.buckets.lock()
    }

    fn max(&self) -> f64 {
        f64::from(self.0.per_minute.get())
    }

    /// Returns the number of lists that are left in a token's bucket.
    fn remaining(&self, bucket: Option<&Bucket>, now: Instant) -> f64 {
        let filled = |bucket: &Bucket| {
            let passed = now.duration_since(bucket.updated_at).as_secs_f64();
            (bucket.remaining + passed * self.max() / 60.0).min(self.max())
        };
        bucket.map_or(self.max(), filled)
    }

    fn check_at(&self, token: TokenId, now: Instant) -> Result<(), Problem> {
        let left = self.remaining(self.buckets().get(&token), now);
        if left >= 1.0 { Ok(()) } else { Err(self.refused(token, left)) }
    }

    fn start_at(&self, token: TokenId, now: Instant) -> Result<(), Problem> {
        let mut buckets = self.buckets();
        if buckets.len() >= MAX_TRACKED_TOKENS {
            buckets.retain(|_, bucket| self.remaining(Some(bucket), now) < self.max());
        }
        let left = self.remaining(buckets.get(&token), now);
        if left < 1.0 {
            drop(buckets);
            return Err(self.refused(token, left));
        }
        buckets.insert(token, Bucket { remaining: left - 1.0, updated_at: now });
        Ok(())
    }

    fn refused(&self, token: TokenId, left: f64) -> Problem {
        counter!(REFUSED).increment(1);
        tracing::warn!(%token, limit = self.0.per_minute, "a list by last_seen_at was refused");
        let wait = Duration::from_secs_f64(((1.0 - left) * 60.0 / self.max()).max(0.0));
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(60) + 1;
        let detail = format!(
            "this token starts more lists by last_seen_at than {} a minute; try again in {seconds} s, or \
             sort by name or created (the server's setting: MUSTER_LIST_WALKS_PER_MINUTE)",
            self.0.per_minute
        );
        let limit =
            RateLimit { name: "lists", quota: self.0.per_minute.get(), window_seconds: Some(60) };
        Problem::new(Kind::TooManyRequests, detail).limited_by(limit, seconds)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_number_of_lists_that_a_token_starts_is_limited_per_token() {
        let rate = WalkRate::new(NonZeroU32::new(30).unwrap());
        let (loud, quiet) = (TokenId(Uuid::from_u128(1)), TokenId(Uuid::from_u128(2)));
        let now = Instant::now();
        let started = (0..100).filter(|_| rate.start_at(loud, now).is_ok()).count();
        assert_eq!(started, 30);
        assert_eq!(rate.check_at(loud, now).unwrap_err().kind(), Kind::TooManyRequests);
        assert!(rate.check_at(quiet, now).is_ok() && rate.start_at(quiet, now).is_ok());
        // The bucket gains one list every two seconds.
        let later = now + Duration::from_millis(2_100);
        assert!(rate.check_at(loud, later).is_ok() && rate.start_at(loud, later).is_ok());
        assert!(rate.start_at(loud, later).is_err());
        assert_eq!(
            (0..100)
                .filter(|_| rate.start_at(loud, now + Duration::from_secs(600)).is_ok())
                .count(),
            30
        );
    }
}
