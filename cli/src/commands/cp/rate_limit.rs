//! Rate limit for all files together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Maximum burst after a pause.
const MAX_BURST: Duration = Duration::from_millis(100);

/// A limit in bytes per second, shared by all copies.
#[derive(Clone, Debug)]
pub(super) struct RateLimit {
    rate: Option<u64>,
    /// Time at which the next byte may be sent.
    next_at: Arc<Mutex<Instant>>,
}

impl RateLimit {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, next_at: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Waits until this number of bytes may be sent.
    pub(super) async fn wait(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let at = {
            let mut next = self.next_at.lock().await;
            let at = (*next).max(Instant::now().checked_sub(MAX_BURST).unwrap_or(*next));
            *next = at + Duration::from_secs_f64(bytes as f64 / rate as f64);
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_sent_at_the_rate_without_accumulating_credit() {
        let pace = RateLimit::new(Some(1000));
        let started_at = Instant::now();
        for _ in 0..11 {
            pace.wait(100).await;
        }
        assert!(
            (900..=1010).contains(&started_at.elapsed().as_millis()),
            "{:?}",
            started_at.elapsed()
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started_at = Instant::now();
        for _ in 0..11 {
            pace.wait(100).await;
        }
        assert!(started_at.elapsed() >= Duration::from_millis(890), "{:?}", started_at.elapsed());
        RateLimit::new(None).wait(usize::MAX).await;
    }
}
