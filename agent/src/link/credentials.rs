//! The broker credentials: stored, and renewed by the servers.

use std::sync::Arc;

use crate::clock::{Anchor, Moment, ServerClock};
use crate::enroll::{CredentialsError, fetch_credentials};
use crate::identity::{Credentials, Identity};
use crate::outbox::Outbox;
use crate::store::{Store, key};

/// The broker credentials of this device.
pub(crate) struct BrokerCredentials {
    pub(crate) identity: Arc<Identity>,
    pub(crate) store: Arc<Store>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) clock: Arc<ServerClock>,
}

impl BrokerCredentials {
    /// Returns the stored credentials.
    pub(super) fn stored(&self) -> Option<Credentials> {
        self.store.get(key::CREDENTIALS).unwrap_or_default()
    }

    /// Fetches new credentials and stores them.
    pub(super) async fn renew(&self) -> Result<Credentials, CredentialsError> {
        let new = fetch_credentials(&self.identity, &self.outbox.proving_keys()).await?;
        let server = new.response.server_time;
        if self.clock.server_time(&Moment::now()).is_none() {
            self.clock.set(Anchor { boot: new.boot, mono: new.mono, server });
        }
        if let Err(error) = self.store.put(key::CREDENTIALS, &new) {
            tracing::warn!(%error, "failed to store the broker credentials");
        }
        tracing::info!(until = %new.response.expires_at, "received new broker credentials");
        Ok(new)
    }
}
