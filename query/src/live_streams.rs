//! Slots for responses that stay open: live streams, output that is followed, recordings,
//! downloads.
//!
//! A process serves a limited number of them, and each token or download link only a part, so that
//! no token uses all.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use muster_api::Problem;
use muster_api::auth::Principal;
use muster_api::problem::{Kind, RateLimit};
use muster_schemas::{DeviceId, OperationId, TokenId};
use parking_lot::{Mutex, MutexGuard};

/// Maximum number of slots of this process.
const MAX_STREAMS: usize = 1_000;
/// Default maximum number of slots of one holder.
pub const DEFAULT_STREAMS_PER_TOKEN: NonZeroUsize = NonZeroUsize::new(100).unwrap();
const OPEN: &str = "muster_live_streams";
const REFUSED: &str = "muster_live_streams_refused_total";

/// The holder of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// An API token.
    Token(TokenId),
    /// The links to an upload, which need no token.
    Upload(OperationId, DeviceId),
}

impl From<&Principal> for Holder {
    fn from(principal: &Principal) -> Self {
        Self::Token(principal.token)
    }
}

/// The slots; cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveStreams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    per_holder: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_holder: HashMap<Holder, usize>,
}

/// A slot, which is released when dropped.
#[derive(Debug)]
pub(crate) struct LiveStream {
    streams: LiveStreams,
    holder: Holder,
}

impl LiveStreams {
    pub(crate) fn new(per_token: NonZeroUsize) -> Self {
        describe_gauge!(OPEN, "live streams and downloads that are open");
        describe_counter!(REFUSED, "live streams and downloads refused, by the limit reached");
        Self(Arc::new(Shared { per_holder: per_token.get(), open: Mutex::default() }))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock()
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// 429 when the holder has its maximum open, 503 when the process has.
    pub(crate) fn acquire(&self, holder: impl Into<Holder>) -> Result<LiveStream, Problem> {
        let holder = holder.into();
        let mut open = self.open();
        let of_holder = open.by_holder.get(&holder).copied().unwrap_or_default();
        if of_holder >= self.0.per_holder {
            drop(open);
            counter!(REFUSED, "limit" => "token").increment(1);
            tracing::warn!(?holder, limit = of_holder, "a live stream was refused");
            let who = match holder {
                Holder::Token(_) => "this token has",
                Holder::Upload(..) => "the links to this file have",
            };
            let detail = format!(
                "{who} {of_holder} live streams and downloads open, the maximum; close one, or use \
                 another token (the server's setting: MUSTER_STREAMS_PER_TOKEN)"
            );
            let quota = u32::try_from(self.0.per_holder).unwrap_or(u32::MAX);
            let limit = RateLimit { name: "streams", quota, window_seconds: None };
            return Err(Problem::new(Kind::TooManyStreams, detail).limited_by(limit, 10));
        }
        if open.total >= MAX_STREAMS {
            drop(open);
            counter!(REFUSED, "limit" => "total").increment(1);
            tracing::warn!(limit = MAX_STREAMS, "a live stream was refused");
            let detail = "the server has its maximum number of live streams open";
            return Err(Problem::unavailable(detail, 10));
        }
        open.total += 1;
        *open.by_holder.entry(holder).or_default() += 1;
        set_open(open.total);
        Ok(LiveStream { streams: self.clone(), holder })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a graph")]
fn set_open(total: usize) {
    gauge!(OPEN).set(total as f64);
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.total = open.total.saturating_sub(1);
        set_open(open.total);
        if let Some(of_holder) = open.by_holder.get_mut(&self.holder) {
            *of_holder = of_holder.saturating_sub(1);
            if *of_holder == 0 {
                open.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn token(number: u128) -> Holder {
        Holder::Token(TokenId(Uuid::from_u128(number)))
    }

    #[test]
    fn one_token_cannot_take_all_streams() {
        let streams = LiveStreams::new(NonZeroUsize::new(100).unwrap());
        let mut taken: Vec<LiveStream> =
            (0..100).map(|_| streams.acquire(token(1)).unwrap()).collect();
        assert_eq!(streams.acquire(token(1)).unwrap_err().kind(), Kind::TooManyStreams);
        for other in 2..11 {
            taken.extend((0..100).map(|_| streams.acquire(token(other)).unwrap()));
        }
        assert_eq!(streams.acquire(token(99)).unwrap_err().kind(), Kind::Unavailable);
        taken.truncate(1);
        assert!(streams.acquire(token(1)).is_ok());
        drop(taken);
        assert!(streams.open().by_holder.is_empty());
    }
}
