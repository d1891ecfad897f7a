//! Renewal of broker credentials: a device proves its signing key over a nonce, and receives new
//! credentials, however long it was offline.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::wire::{
    CredentialsProof, CredentialsRequest, CredentialsResponse, NonceResponse,
};
use muster_schemas::{DeviceId, ProjectId, Timestamp, codec};
use sha2::Sha256;

use super::BrokerAccess;
use crate::clock::now;
use crate::device_keys::{DeviceKeys, Verified};
use crate::error::CommandError;
use crate::keys::KeyStore;

/// Validity of a nonce.
const NONCE_TTL: Duration = Duration::from_secs(120);
/// Time by which credentials are backdated, because the clocks of brokers differ.
const BACKDATED_BY: Duration = Duration::from_secs(60);

/// The nonce is invalid or has expired.
#[derive(Debug, thiserror::Error)]
#[error("the nonce is invalid or has expired; request a new one")]
pub struct InvalidNonce;

/// Returns the HMAC over the nonce's device and expiry: the server need not store the nonce.
fn seal_nonce(
    key: &[u8; 32],
    project: &ProjectId,
    device: DeviceId,
    until: Timestamp,
) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(b"muster/nonce/v1");
    mac.update(&codec::encode(&(project, device, until)));
    mac
}

fn create_nonce(key: &[u8; 32], project: &ProjectId, device: DeviceId, until: Timestamp) -> String {
    let mut bytes = until.micros().to_be_bytes().to_vec();
    bytes.extend(seal_nonce(key, project, device, until).finalize().into_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

fn check_nonce(
    key: &[u8; 32],
    project: &ProjectId,
    device: DeviceId,
    nonce: &str,
    now: Timestamp,
) -> Result<(), InvalidNonce> {
    let bytes = BASE64URL_NOPAD.decode(nonce.as_bytes()).map_err(|_| InvalidNonce)?;
    let (until, mac) = bytes.split_at_checked(8).ok_or(InvalidNonce)?;
    let until = Timestamp(i64::from_be_bytes(until.try_into().map_err(|_| InvalidNonce)?));
    seal_nonce(key, project, device, until).verify_slice(mac).map_err(|_| InvalidNonce)?;
    if now < until { Ok(()) } else { Err(InvalidNonce) }
}

/// Issues broker credentials to devices.
#[derive(Clone, Debug)]
pub struct Credentials {
    keys: Arc<KeyStore>,
    device_keys: DeviceKeys,
    broker: BrokerAccess,
}

impl Credentials {
    pub(super) const fn new(
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        broker: BrokerAccess,
    ) -> Self {
        Self { keys, device_keys, broker }
    }

    /// Returns a nonce for a device, whether the device is known or not.
    #[must_use]
    pub fn nonce(&self, project: &ProjectId, device: DeviceId) -> NonceResponse {
        let now = now();
        let until = now + NONCE_TTL;
        NonceResponse {
            nonce: create_nonce(self.keys.nonce_key(), project, device, until),
            server_time: now,
        }
    }

    /// Issues new broker credentials to a device that proves its identity.
    ///
    /// # Errors
    /// When the proof is invalid, the device was deleted, or the log cannot be read.
    pub async fn renew(
        &self,
        request: &CredentialsRequest,
    ) -> Result<CredentialsResponse, CommandError> {
        let unproved = |what: String| CommandError::IdentityNotProven(what);
        let sealed = BASE64URL_NOPAD
            .decode(request.request.as_bytes())
            .map_err(|_| unproved("request is not unpadded base64url".into()))?;
        let message = Unverified::parse(&sealed).map_err(|error| unproved(error.to_string()))?;
        let proof: CredentialsProof =
            codec::decode(message.payload()).map_err(|error| unproved(error.to_string()))?;
        let CredentialsProof { project, device, nonce } = proof;
        check_nonce(self.keys.nonce_key(), &project, device, &nonce, now())
            .map_err(|error| unproved(error.to_string()))?;

        let unknown = || unproved("the device is unknown or was deleted; enroll it again".into());
        let verified =
            self.device_keys.verify(&project, device, message, Kind::Credentials).await?;
        let Verified::Genuine { device: known, .. } = verified else { return Err(unknown()) };
        let nats_key = known.state.nats_key.ok_or_else(unknown)?;
        self.issue(&project, device, &nats_key)
    }

    pub(super) fn issue(
        &self,
        project: &ProjectId,
        device: DeviceId,
        nats_key: &str,
    ) -> Result<CredentialsResponse, CommandError> {
        let now = now();
        let expires_at = now + self.broker.jwt_ttl;
        let issued_at = now - BACKDATED_BY;
        let jwt = self.keys.device_jwt(nats_key, project, device, issued_at, expires_at)?;
        Ok(CredentialsResponse {
            jwt,
            expires_at,
            servers: self.broker.servers.clone(),
            server_time: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_nonce_is_valid_for_one_device_and_a_limited_time() {
        let key = [7; 32];
        let project = ProjectId::default_project();
        let (one, two) = (DeviceId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        let nonce = create_nonce(&key, &project, one, Timestamp(100));
        let check = |key, device, nonce: &str, now| {
            check_nonce(key, &project, device, nonce, Timestamp(now)).is_ok()
        };
        assert!(check(&key, one, &nonce, 99));
        assert!(!check(&key, one, &nonce, 100));
        assert!(!check(&key, two, &nonce, 99));
        assert!(!check(&[8; 32], one, &nonce, 99));
        for bad in ["", "A", "AAAA", "!!", &nonce[1..]] {
            assert!(!check(&key, one, bad, 99), "{bad:?}");
        }
    }
}
