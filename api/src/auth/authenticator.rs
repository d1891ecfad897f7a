//! Finds tokens in the event log, and caches them.
//!
//! A cached token is used while no token has changed, as far as this process was notified, and for
//! less than a second in any case ([`EventLog::is_current`]). Then the version of its stream is read
//! (one row by primary key); the stream is folded again only if the version differs. Tokens that do
//! not exist are not cached: one may be created at any time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_recursion::async_recursion as boxed;
use muster_eventlog::{AccessStamp, EventLog, StoreError};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{ProjectId, StreamName, StreamVersion, Timestamp, TokenId};
use parking_lot::{Mutex, MutexGuard};

use super::token_uses::store_token_use;
use super::{ApiTokenState, Principal};
use crate::problem::{Kind, Problem};

/// Maximum number of cached tokens. Beyond it, those that are not in use are dropped, or else all.
const MAX_CACHED_TOKENS: usize = 10_000;
/// Time for which one request reads a token again while others use the cached one.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(200);
/// Minimum interval between two recorded uses of a token.
const MIN_USE_INTERVAL: Duration = Duration::from_secs(3600);

/// Authenticates bearer tokens; cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: EventLog,
    tokens: Mutex<HashMap<(ProjectId, TokenId), CachedToken>>,
    projects: Mutex<HashSet<ProjectId>>,
}

#[derive(Clone, Debug)]
struct CachedToken {
    version: StreamVersion,
    state: Arc<ApiTokenState>,
    /// Moment before the version was read.
    stamp: AccessStamp,
    /// Start of the newest refresh.
    refreshed_at: Option<Instant>,
    /// Time at which this process last tried to record a use.
    use_recorded_at: Option<Timestamp>,
}

impl Authenticator {
    /// Creates an authenticator that reads tokens from this log.
    #[must_use]
    pub fn new(log: EventLog) -> Self {
        Self {
            inner: Arc::new(Inner { log, tokens: Mutex::default(), projects: Mutex::default() }),
        }
    }

    /// Returns the principal of this token. `address` is the client's, for the record of the
    /// token's use.
    ///
    /// # Errors
    /// 401 when the token is invalid; 503 when the log cannot be read.
    #[boxed]
    pub async fn authenticate(
        &self,
        text: &str,
        address: Option<String>,
    ) -> Result<Principal, Problem> {
        let token: ApiTokenText = text.parse().map_err(|_| invalid_token())?;
        let cached = self.look_up(&token).await?;
        let now = Timestamp::from(SystemTime::now());
        let role = cached.state.check(&token.secret, now).map_err(|refusal| {
            tracing::debug!(token = %token.id, project = %token.project, address, %refusal, "refused a token");
            invalid_token()
        })?;
        self.record_use(&token, &cached, now, address);
        Ok(Principal {
            token: token.id,
            role,
            project: (!token.project.is_system()).then_some(token.project),
        })
    }

    /// Whether the project exists. Projects are never deleted, so a positive result is cached.
    ///
    /// # Errors
    /// When the log cannot be read.
    #[boxed]
    pub async fn project_exists(&self, project: &ProjectId) -> Result<bool, StoreError> {
        let lock = || self.inner.projects.lock();
        if lock().contains(project) {
            return Ok(true);
        }
        let exists = self.inner.log.head(project).await?.is_some();
        if exists {
            lock().insert(project.clone());
        }
        Ok(exists)
    }

    async fn look_up(&self, token: &ApiTokenText) -> Result<CachedToken, StoreError> {
        let key = (token.project.clone(), token.id);
        if let Some(cached) = self.current(&key) {
            return Ok(cached);
        }
        let stamp = self.inner.log.access_stamp();
        let stream = StreamName::Token(token.id);
        let version = self.inner.log.stream_version(&token.project, &stream).await?;
        if let Some(cached) = self.tokens().get_mut(&key)
            && cached.version == version
        {
            (cached.stamp, cached.refreshed_at) = (stamp, None);
            return Ok(cached.clone());
        }
        let events = match version {
            StreamVersion::ZERO => Vec::new(),
            _ => self.inner.log.read_stream(&token.project, &stream).await?,
        };
        let mut state = ApiTokenState::default();
        for stored in &events {
            // A row that command did not record creates no token.
            if !self.inner.log.is_authentic(&token.project, stored) {
                continue;
            }
            let event = stored.event().map_err(|error| {
                StoreError::Corrupt(format!("stream {stream} at {}: {error}", stored.position))
            })?;
            state = state.evolve(&event, stored.recorded_at);
        }
        let mut tokens = self.tokens();
        let cached = CachedToken {
            // The events may be newer than the version that was read first.
            version: events.last().map_or(StreamVersion::ZERO, |event| event.stream_version),
            state: Arc::new(state),
            stamp,
            refreshed_at: None,
            use_recorded_at: tokens.get(&key).and_then(|cached| cached.use_recorded_at),
        };
        // Missing tokens are not cached: any client can name one.
        if cached.version > StreamVersion::ZERO {
            self.make_room(&mut tokens);
            tokens.insert(key, cached.clone());
        }
        Ok(cached)
    }

    /// Returns the cached token if it may be used. One request at a time reads an ageing token
    /// again, so that none waits for the log while the token is in use.
    fn current(&self, key: &(ProjectId, TokenId)) -> Option<CachedToken> {
        let mut tokens = self.tokens();
        let cached = tokens.get_mut(key)?;
        if !self.inner.log.is_current(&cached.stamp) {
            return None;
        }
        let is_refreshed = cached.refreshed_at.is_some_and(|at| at.elapsed() < REFRESH_TIMEOUT);
        if cached.stamp.is_ageing() && !is_refreshed {
            cached.refreshed_at = Some(Instant::now());
            return None;
        }
        Some(cached.clone())
    }

    fn make_room(&self, tokens: &mut HashMap<(ProjectId, TokenId), CachedToken>) {
        if tokens.len() < MAX_CACHED_TOKENS {
            return;
        }
        tokens.retain(|_, cached| self.inner.log.is_current(&cached.stamp));
        if tokens.len() >= MAX_CACHED_TOKENS {
            tokens.clear();
        }
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<(ProjectId, TokenId), CachedToken>> {
        self.inner.tokens.lock()
    }

    /// Notes the use in the background if none was recorded for an hour; command records it.
    fn record_use(
        &self,
        token: &ApiTokenText,
        cached: &CachedToken,
        now: Timestamp,
        address: Option<String>,
    ) {
        let is_due =
            |last: Option<Timestamp>| last.is_none_or(|last| now.since(last) >= MIN_USE_INTERVAL);
        if !is_due(cached.state.last_used()) || !is_due(cached.use_recorded_at) {
            return;
        }
        let key = (token.project.clone(), token.id);
        match self.tokens().get_mut(&key) {
            // Another request of this process was faster.
            Some(entry) if !is_due(entry.use_recorded_at) => return,
            Some(entry) => entry.use_recorded_at = Some(now),
            None => return,
        }
        let log = self.inner.log.clone();
        tokio::spawn(async move {
            if let Err(error) = store_token_use(&log, &key.0, key.1, address.as_deref()).await {
                tracing::debug!(token = %key.1, %error, "failed to record the use of a token");
            }
        });
    }
}

/// The response to the client, independent of the cause.
fn invalid_token() -> Problem {
    Problem::new(
        Kind::Unauthorized,
        "the token is invalid (wrong, expired or revoked); ask an admin for a new one",
    )
}
