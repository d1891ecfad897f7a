//! The device's two key pairs: Ed25519 for its messages, an nkey for the broker.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::SigningKey;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

/// The secrets of both keys. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceKeys {
    #[serde(with = "serde_bytes")]
    signing: [u8; 32],
    /// The seed, `SU…`.
    nats: String,
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKeys(kid {})", self.signing().thumbprint())
    }
}

/// The stored seed is invalid.
#[derive(Debug, thiserror::Error)]
#[error("the device's broker key is invalid ({0}); enroll again with --force")]
pub struct UnusableKey(String);

impl DeviceKeys {
    /// Creates new keys.
    ///
    /// # Errors
    /// When the system provides no random numbers.
    pub fn generate() -> Result<Self, UnusableKey> {
        let nats = KeyPair::new_user().seed().map_err(|error| UnusableKey(error.to_string()))?;
        Ok(Self { signing: rand::random(), nats })
    }

    /// Returns the same broker key with a new signing key.
    #[must_use]
    pub fn with_new_signing_key(&self) -> Self {
        Self { signing: rand::random(), nats: self.nats.clone() }
    }

    /// Returns the key that signs events.
    #[must_use]
    pub fn signing(&self) -> SigningKey {
        SigningKey::from_seed(&self.signing)
    }

    fn nats(&self) -> Result<KeyPair, UnusableKey> {
        KeyPair::from_seed(&self.nats).map_err(|error| UnusableKey(error.to_string()))
    }

    /// Returns the public broker key of this device, `U…`.
    ///
    /// # Errors
    /// When the stored seed is damaged.
    pub fn nats_public(&self) -> Result<String, UnusableKey> {
        Ok(self.nats()?.public_key())
    }

    /// Signs with the broker key.
    ///
    /// # Errors
    /// When the stored seed is damaged.
    pub fn nats_sign(&self, bytes: &[u8]) -> Result<Vec<u8>, UnusableKey> {
        self.nats()?.sign(bytes).map_err(|error| UnusableKey(error.to_string()))
    }

    /// Like [`Self::nats_sign`], in unpadded base64url.
    ///
    /// # Errors
    /// When the stored seed is damaged.
    pub fn nats_proof(&self, bytes: &[u8]) -> Result<String, UnusableKey> {
        Ok(BASE64URL_NOPAD.encode(&self.nats_sign(bytes)?))
    }
}
