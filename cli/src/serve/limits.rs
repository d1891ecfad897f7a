//! Limits on what anybody may ask without a token: joining, nonces, credentials.
//!
//! An address has a bucket of requests, wide enough for a site with hundreds of devices behind one
//! address; what is beyond it is told to come back. Agents do.

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
use muster_api::problem::Kind;
use tokio::sync::Semaphore;

/// Where devices ask before they have a token.
const OPEN: &str = "/api/v1/device/";
/// Requests that an address may make at once, in seconds of its rate.
const BURST: u32 = 10;
/// Such requests that are worked on at once; signatures are checked in each.
const AT_ONCE: usize = 64;
/// Addresses that are remembered before those that were quiet are forgotten.
const REMEMBERED: usize = 10_000;

/// How fast devices may ask to join.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct JoinRate {
    /// Requests to join, or for credentials, that one address may make a second; ten times as many
    /// at once. Raise it where more than a few hundred devices come from one address together
    #[arg(long, env = "MUSTER_JOINS_PER_SECOND", default_value = "40", value_name = "N")]
    pub(crate) joins_per_second: NonZeroU32,
}

/// The buckets; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    addresses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    places: Arc<Semaphore>,
}

impl Limits {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST - 1));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            addresses: Arc::new(RateLimiter::keyed(quota)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    fn check(&self, address: IpAddr) -> Result<(), Problem> {
        if self.addresses.len() > REMEMBERED {
            self.addresses.retain_recent();
        }
        self.addresses.check_key(&address).map_err(|refused| {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(60) + 1;
            Problem::new(
                Kind::TooManyRequests,
                format!("too many requests from {address}; try again in {seconds} s"),
            )
            .retry_after(seconds)
        })
    }
}

/// The middleware; everything that needs a token passes through.
pub(super) async fn limit(
    State(limits): State<Limits>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if !request.uri().path().starts_with(OPEN) {
        return next.run(request).await;
    }
    if let Err(problem) = limits.check(client.ip()) {
        return problem.into_response();
    }
    // Never closed: there is always a place, some time.
    let _place = limits.places.acquire().await;
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_held_back_and_no_other() {
        let limits = Limits::new(NonZeroU32::new(40).unwrap());
        let (loud, quiet) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let passed = (0..1_000).filter(|_| limits.check(loud).is_ok()).count();
        assert!((400..500).contains(&passed), "{passed}");
        assert!(limits.check(quiet).is_ok());
    }
}
