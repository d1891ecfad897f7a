//! Keys that may no longer connect: told to the broker as a new claim of the account, which closes
//! live connections and refuses new ones.

use muster_schemas::Timestamp;

use super::{Service, ServiceError, now};

impl Service {
    /// Revokes a NATS user key: what was issued to it until now is worth nothing.
    ///
    /// # Errors
    /// When the store cannot be asked. A broker that is away gets the claim later, with the next
    /// revocation or at the next start.
    pub(crate) async fn revoke(&self, nats_key: &str) -> Result<(), ServiceError> {
        self.log.revoke_nats_key(nats_key).await?;
        self.push_account().await
    }

    /// Tells the broker the account's present claim. Revocations that are older than any JWT that
    /// could still be alive are left out.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn push_account(&self) -> Result<(), ServiceError> {
        let life = self.broker.jwt_life + std::time::Duration::from_secs(120);
        let revoked: Vec<(String, Timestamp)> = self.log.revoked_nats_keys(life).await?;
        let jwt = self.keys.account_jwt(&revoked, now())?;
        let answer = self.system.request("$SYS.REQ.CLAIMS.UPDATE", jwt.into()).await;
        match answer {
            Ok(message) => {
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                tracing::debug!(answer = %text, "the account's claim was pushed");
            }
            Err(error) => {
                tracing::warn!(%error, "the broker did not take the account's claim; it gets it at the next start");
            }
        }
        Ok(())
    }
}
