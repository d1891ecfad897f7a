//! The renewal of the broker credentials during a connection.

use std::time::Duration;

use futures::future::BoxFuture;
use muster_schemas::errors::error_chain;
use tokio::time::{Instant, sleep_until};

use super::Link;
use crate::clock::Moment;
use crate::enroll::CredentialsError;
use crate::identity::Credentials;

/// Delay after a failed renewal.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// The renewal of credentials: scheduled, and scheduled again after a failure.
pub(super) struct Renewal<'a> {
    link: &'a Link,
    at: Instant,
    running: Option<BoxFuture<'a, Result<Credentials, CredentialsError>>>,
}

impl<'a> Renewal<'a> {
    /// Schedules the renewal of these credentials.
    pub(super) fn new(link: &'a Link, credentials: &Credentials) -> Self {
        Self { link, at: Instant::now() + renewal_after(credentials), running: None }
    }

    /// Waits for new credentials. If the wait is canceled, the next one continues it.
    pub(super) async fn renewed(&mut self) -> Credentials {
        loop {
            if self.running.is_none() {
                sleep_until(self.at).await;
            }
            let link = self.link;
            let running = self.running.get_or_insert_with(|| Box::pin(link.credentials.renew()));
            let outcome = running.await;
            self.running = None;
            match outcome {
                Ok(new) => return new,
                Err(error) => {
                    let problem = error_chain(&error);
                    link.connection.set_last_error(&problem);
                    tracing::warn!(problem, "failed to renew the broker credentials");
                    self.at = Instant::now() + RETRY_DELAY;
                }
            }
        }
    }
}

/// Returns the delay of the renewal: 75% to 85% of the credentials' lifetime.
fn renewal_after(credentials: &Credentials) -> Duration {
    let left = credentials.remaining(&Moment::now()).unwrap_or_default();
    let kept = credentials.lifetime().mul_f64(0.15 + 0.1 * rand::random::<f64>());
    left.saturating_sub(kept)
}
