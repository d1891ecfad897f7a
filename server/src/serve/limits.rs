//! Limits on unauthenticated requests: enrollment, nonces, credentials.
//!
//! Each address has a token bucket that is large enough for a site with hundreds of devices behind
//! one address. A request beyond it gets a retry delay, which agents follow.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clap::Args;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use muster_api::Problem;
use muster_api::problem::{Kind, RateLimit};
use tokio::sync::Semaphore;

/// Path prefix of the requests that devices send before they have a token.
const UNAUTHENTICATED_PREFIX: &str = "/api/v1/device/";
/// Burst size of an address, in seconds of its rate.
const BURST_SECS: u32 = 10;
/// Maximum number of such requests in progress; each verifies signatures.
const MAX_CONCURRENT_REQUESTS: usize = 64;
/// Maximum number of addresses in memory, before idle ones are removed.
const MAX_TRACKED_ADDRESSES: usize = 10_000;

/// Rate limit of unauthenticated requests.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct UnauthenticatedRate {
    /// Maximum enrollment and credential requests per second of one address
    ///
    /// Bursts may be ten times as large. Raise it if more than a few hundred devices share one
    /// address.
    #[arg(long, env = "MUSTER_JOINS_PER_SECOND", default_value = "40", value_name = "N")]
    pub(crate) joins_per_second: NonZeroU32,
}

/// The token buckets; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    addresses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    limit: RateLimit,
    permits: Arc<Semaphore>,
}

impl Limits {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECS - 1));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            addresses: Arc::new(RateLimiter::keyed(quota)),
            limit: RateLimit {
                name: "enrollment",
                quota: burst.get(),
                window_seconds: Some(BURST_SECS),
            },
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
        }
    }

    fn check(&self, address: IpAddr) -> Result<(), Problem> {
        if self.addresses.len() > MAX_TRACKED_ADDRESSES {
            self.addresses.retain_recent();
        }
        self.addresses.check_key(&address).map_err(|rejection| {
            let wait = rejection.wait_time_from(DefaultClock::default().now());
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(60) + 1;
            Problem::new(
                Kind::TooManyRequests,
                format!("too many requests from {address}; try again in {seconds} s"),
            )
            .limited_by(self.limit, seconds)
        })
    }
}

/// Middleware that limits unauthenticated requests; all others pass.
pub(super) async fn limit(
    State(limits): State<Limits>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if !request.uri().path().starts_with(UNAUTHENTICATED_PREFIX) {
        return next.run(request).await;
    }
    if let Err(problem) = limits.check(client.ip()) {
        return problem.into_response();
    }
    // The semaphore is never closed, so a permit becomes available eventually.
    let _permit = limits.permits.acquire().await;
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_limit_applies_per_address() {
        let limits = Limits::new(NonZeroU32::new(40).unwrap());
        let (loud, quiet) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let passed = (0..1_000).filter(|_| limits.check(loud).is_ok()).count();
        assert!((400..500).contains(&passed), "{passed}");
        assert!(limits.check(quiet).is_ok());
    }
}
