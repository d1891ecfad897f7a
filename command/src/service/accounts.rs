//! The accounts of the broker: their claims name what each account exchanges with the other, and the
//! keys of devices that were revoked. New claims close connections with revoked keys and refuse new
//! ones.
//!
//! Revocations are in the log's own tables, written by the append that revoked a device's keys. One
//! task in each process sends the claims after each revocation of this process, and compares them with
//! the broker's after each reconnection and periodically.

use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::StreamExt;
use muster_eventlog::EventLog;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::claim_lock::lock_claim;
use crate::clock::now;
use crate::error::CommandError;
use crate::keys::KeyStore;

/// Interval between comparisons: they cover what another process revoked and could not send.
const COMPARE_INTERVAL: Duration = Duration::from_secs(30);
/// Delay before an update that the broker did not accept is sent again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Minimum interval between updates after revocations.
const MIN_PUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which responses of all brokers of a cluster are collected.
const LOOKUP_TIME: Duration = Duration::from_millis(500);

/// The broker's response to a claim.
#[derive(Deserialize)]
struct ClaimResponse {
    error: Option<ClaimError>,
}

#[derive(Deserialize)]
struct ClaimError {
    description: String,
}

/// Updates the accounts of the broker.
#[derive(Clone, Debug)]
pub struct BrokerAccounts {
    log: EventLog,
    keys: Arc<KeyStore>,
    /// Connection to the system account.
    system: async_nats::Client,
    /// Lifetime of a device's JWT.
    jwt_ttl: Duration,
    /// Notified when keys were revoked: the broker must be updated.
    revoked: Arc<Notify>,
}

impl BrokerAccounts {
    pub(super) fn new(
        log: EventLog,
        keys: Arc<KeyStore>,
        system: async_nats::Client,
        jwt_ttl: Duration,
    ) -> Self {
        Self { log, keys, system, jwt_ttl, revoked: Arc::default() }
    }

    /// Makes the next update immediate, because an append has revoked keys.
    pub(super) fn notify_revocation(&self) {
        self.revoked.notify_one();
    }

    /// Keeps the broker's claims of both accounts up to date until `stop`. `reconnected` counts the
    /// connections to the broker's system account.
    #[boxed]
    pub async fn maintain(&self, mut reconnected: watch::Receiver<u64>, stop: CancellationToken) {
        let mut reported = String::new();
        let mut has_revoked = false;
        loop {
            let wait = match self.update(has_revoked).await {
                Ok(()) => {
                    reported.clear();
                    COMPARE_INTERVAL
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != reported {
                        tracing::warn!(
                            error = %text,
                            "failed to update the broker's accounts, and so its list of revoked \
                             keys; trying again"
                        );
                        reported = text;
                    }
                    RETRY_DELAY
                }
            };
            let is_retry = wait == RETRY_DELAY;
            if has_revoked && !is_retry {
                // Many revocations are sent together.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(MIN_PUSH_INTERVAL) => {}
                }
            }
            has_revoked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.revoked.notified() => true,
                Ok(()) = reconnected.changed() => is_retry && has_revoked,
                () = tokio::time::sleep(wait) => is_retry && has_revoked,
            };
        }
    }

    /// Sends the broker the current claims of both accounts, if it has others; with `has_revoked`,
    /// those of the devices' account in any case, and first.
    ///
    /// # Errors
    /// When the store cannot be read, or the broker did not accept the claims.
    async fn update(&self, has_revoked: bool) -> Result<(), CommandError> {
        if has_revoked {
            self.update_devices(true).await?;
            return self.update_server().await;
        }
        // The devices' account imports what the servers' account exports.
        let server = self.update_server().await;
        self.update_devices(false).await?;
        server
    }

    async fn update_server(&self) -> Result<(), CommandError> {
        let claims = self.keys.server_account_jwt(now())?;
        if self.has_claims(&self.keys.server_account(), &claims).await? {
            return Ok(());
        }
        tracing::info!("the broker has other claims of the servers' account; updating them");
        self.push_claims(claims).await
    }

    /// Revocations that are older than any JWT that can still be valid are left out.
    async fn update_devices(&self, has_revoked: bool) -> Result<(), CommandError> {
        let account = self.keys.device_account();
        let lock = lock_claim(&self.log, &account, self.jwt_ttl + Duration::from_secs(120)).await?;
        let claims = self.keys.device_account_jwt(&lock.revoked, lock.issued_at)?;
        if !has_revoked && self.has_claims(&account, &claims).await? {
            return Ok(());
        }
        self.push_claims(claims).await?;
        Ok(lock.mark_accepted().await?)
    }

    /// Whether all brokers have the claims of this JWT: an update costs them work in proportion to
    /// the number of connected devices. False if none responds.
    async fn has_claims(&self, account: &str, jwt: &str) -> Result<bool, CommandError> {
        let broker = |error: String| CommandError::Broker(error);
        let inbox = self.system.new_inbox();
        let mut replies = self
            .system
            .subscribe(inbox.clone())
            .await
            .map_err(|error| broker(error.to_string()))?;
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
        let sent = self.system.publish_with_reply(subject, inbox, Bytes::new()).await;
        sent.map_err(|error| broker(error.to_string()))?;
        let (mut count, mut is_same) = (0, true);
        let all = async {
            while let Some(reply) = replies.next().await {
                let found = std::str::from_utf8(&reply.payload).unwrap_or_default();
                count += 1;
                is_same &= self.keys.have_same_claims(found, jwt);
            }
        };
        // The number of brokers is unknown.
        let _ = timeout(LOOKUP_TIME, all).await;
        Ok(count > 0 && is_same)
    }

    async fn push_claims(&self, jwt: String) -> Result<(), CommandError> {
        let response = self
            .system
            .request("$SYS.REQ.CLAIMS.UPDATE", jwt.into())
            .await
            .map_err(|error| CommandError::Broker(error.to_string()))?;
        let response: ClaimResponse =
            serde_json::from_slice(&response.payload).map_err(|error| {
                CommandError::Broker(format!("its response to a claim is invalid: {error}"))
            })?;
        match response.error {
            None => Ok(()),
            Some(error) => {
                Err(CommandError::Broker(format!("it rejected a claim: {}", error.description)))
            }
        }
    }
}
