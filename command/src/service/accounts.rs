//! Revoked keys: sent to the broker as a new claim of the account, which closes live connections
//! and refuses new ones.
//!
//! Revocations are in the log's own tables, written by the append that revoked a device's keys. One
//! task in each process compares them with the broker's and sends them until the broker has confirmed
//! them: after each revocation of this process, after each reconnection, and periodically.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_eventlog::EventLog;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::now;
use crate::error::CommandError;
use crate::keys::{KeyStore, nats_jwt};

/// Interval of periodic comparisons: they cover what another process revoked and could not send.
const UPDATE_INTERVAL: Duration = Duration::from_secs(30);
/// Delay before an update that the broker did not accept is sent again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

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

    /// Keeps the broker's claims of the account up to date until `stop`. `reconnected` counts the
    /// connections to the broker's system account.
    pub async fn maintain(&self, mut reconnected: watch::Receiver<u64>, stop: CancellationToken) {
        let mut reported = String::new();
        loop {
            let wait = match self.update().await {
                Ok(()) => {
                    reported.clear();
                    UPDATE_INTERVAL
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != reported {
                        tracing::warn!(
                            error = %text,
                            "failed to send the revoked keys to the broker; trying again"
                        );
                        reported = text;
                    }
                    RETRY_DELAY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.revoked.notified() => {}
                Ok(()) = reconnected.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sends the broker the current claims of the servers' account and of the devices' account, if
    /// it has others. Revocations that are older than any JWT that can still be valid are left out.
    ///
    /// # Errors
    /// When the store cannot be read, or the broker did not accept the claims.
    pub async fn update(&self) -> Result<(), CommandError> {
        // The devices' account imports what this one exports.
        let server = self.keys.server_account_jwt(now())?;
        if !self.has_claims(&self.keys.server_account(), &server).await? {
            tracing::info!("the broker has other claims of the servers' account; updating them");
            self.push_claims(server).await?;
        }
        let life = self.jwt_ttl + Duration::from_secs(120);
        let turn = self.log.lock_claim(&self.keys.device_account(), life).await?;
        let devices = self.keys.device_account_jwt(&turn.revoked, turn.issued_at)?;
        if !self.has_claims(&self.keys.device_account(), &devices).await? {
            self.push_claims(devices).await?;
            turn.mark_accepted().await?;
        }
        Ok(())
    }

    /// Whether the broker has the claims of this JWT. Each update is work in proportion to the
    /// number of connected devices.
    async fn has_claims(&self, account: &str, jwt: &str) -> Result<bool, CommandError> {
        let found = self
            .system
            .request(format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"), Bytes::new())
            .await
            .map_err(|error| CommandError::Broker(error.to_string()))?;
        let found = std::str::from_utf8(&found.payload).unwrap_or_default();
        Ok(nats_jwt::have_same_claims(found, jwt))
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
