//! Uses of API tokens: noted by any role, recorded here, because only command and ingest may append
//! to the log. At most one an hour for each token.

use std::time::Duration;

use async_recursion::async_recursion as boxed;
use muster_api::auth::ApiTokenState;
use muster_api::auth::token_uses::{TokenUse, delete_token_use, token_uses};
use muster_eventlog::{Append, AppendError, EventLog, Expected, NewEvent};
use muster_schemas::events::ApiTokenUsed;
use muster_schemas::{StreamName, StreamVersion};
use tokio_util::sync::CancellationToken;

use crate::error::CommandError;

/// Interval between searches for noted uses.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval between two recorded uses of a token.
const MIN_USE_INTERVAL: Duration = Duration::from_secs(3_000);

/// Records uses of API tokens.
#[derive(Clone, Debug)]
pub struct TokenUses {
    log: EventLog,
}

impl TokenUses {
    pub(super) const fn new(log: EventLog) -> Self {
        Self { log }
    }

    /// Records noted uses of tokens until `stop`.
    #[boxed]
    pub async fn record(&self, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            match self.record_noted().await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "failed to record the uses of tokens; trying again");
                    }
                }
            }
        }
    }

    async fn record_noted(&self) -> Result<(), CommandError> {
        for noted in token_uses(&self.log).await? {
            self.record_one(&noted).await?;
            delete_token_use(&self.log, &noted).await?;
        }
        Ok(())
    }

    /// Records one use, when the token exists and no recent use is recorded.
    async fn record_one(&self, token_use: &TokenUse) -> Result<(), CommandError> {
        let stream = StreamName::Token(token_use.token);
        let stored = self.log.read_stream(&token_use.project, &stream).await?;
        let version = stored.last().map_or(StreamVersion::ZERO, |event| event.stream_version);
        let mut state = ApiTokenState::default();
        for event in self.log.authentic(&token_use.project, stored).await {
            state = state.evolve(&event.event()?, event.recorded_at);
        }
        let is_due =
            state.last_used().is_none_or(|last| token_use.used_at.since(last) >= MIN_USE_INTERVAL);
        if !state.exists() || !is_due {
            return Ok(());
        }
        let used = ApiTokenUsed { address: token_use.address.clone() };
        let event = NewEvent::server(&used.into(), token_use.used_at);
        let append = Append::by_actor(format!("token:{}", token_use.token)).stream(
            stream,
            Expected::Version(version),
            vec![event],
        );
        match self.log.append(&token_use.project, append).await {
            // Another process was faster, or the token was revoked meanwhile.
            Ok(_) | Err(AppendError::Conflict { .. } | AppendError::NoProject(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
