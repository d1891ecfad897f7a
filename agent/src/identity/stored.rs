//! The result of the enrollment in the data folder.

use std::time::Duration;

use data_encoding::BASE64;
use muster_schemas::cose::{CoseError, PublicKey};
use muster_schemas::names::DeviceName;
use muster_schemas::wire::CredentialsResponse;
use muster_schemas::{DeviceId, Epoch, ProjectId, Timestamp};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::Url;
use uuid::Uuid;

use super::keys::DeviceKeys;
use crate::clock::Moment;
use crate::trust::PinnedCa;

/// An enrolled device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Address of the servers: `https://host:port`.
    #[serde(serialize_with = "url_as_text", deserialize_with = "url_from_text")]
    pub url: Url,
    /// Project of the device.
    pub project: ProjectId,
    /// Id of the device.
    pub device: DeviceId,
    /// Name of the device when it enrolled; operators may have renamed it since.
    pub name: DeviceName,
    /// Epoch from the enrollment.
    pub epoch: Epoch,
    /// Time of the enrollment, by the server's clock.
    pub enrolled_at: Timestamp,
    /// Keys of the device.
    pub keys: DeviceKeys,
    /// The project's operation key, a COSE_Key.
    #[serde(with = "serde_bytes")]
    pub operation_key: Vec<u8>,
    /// The CA's certificate, DER.
    #[serde(with = "serde_bytes")]
    pub ca: Vec<u8>,
}

fn url_as_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}

fn url_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

impl Identity {
    /// Returns the key that seals every message on which this device acts.
    ///
    /// # Errors
    /// When the stored key is invalid.
    pub fn operation_key(&self) -> Result<PublicKey, CoseError> {
        PublicKey::from_cose_key(&self.operation_key)
    }

    /// Returns the CA that signs its servers' certificates.
    #[must_use]
    pub fn pinned_ca(&self) -> PinnedCa {
        PinnedCa::Certificate(CertificateDer::from(self.ca.clone()))
    }
}

/// Encodes a certificate as PEM.
#[must_use]
pub fn to_pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Broker credentials with the time of their receipt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The server's response.
    pub response: CredentialsResponse,
    /// Id of the boot in which the response was received.
    pub boot: Uuid,
    /// The monotonic clock at that moment.
    pub mono: u64,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials(until {})", self.response.expires_at)
    }
}

impl Credentials {
    /// Creates credentials that were just received.
    #[must_use]
    pub const fn new(response: CredentialsResponse, at: &Moment) -> Self {
        Self { response, boot: at.boot, mono: at.mono }
    }

    /// Returns their lifetime.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.response.expires_at.since(self.response.server_time)
    }

    /// Returns their remaining lifetime; `None` if it is unknown because they were received in
    /// another boot.
    #[must_use]
    pub fn remaining(&self, at: &Moment) -> Option<Duration> {
        if at.boot != self.boot || at.boot.is_nil() {
            return None;
        }
        let age = Duration::from_micros(at.mono.saturating_sub(self.mono));
        Some(self.lifetime().saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_age_by_the_monotonic_clock() {
        let boot = Uuid::from_u128(1);
        let moment = |boot, mono| Moment { boot, mono, wall: Timestamp(0) };
        let response = CredentialsResponse {
            jwt: "secret".into(),
            expires_at: Timestamp(1_100),
            servers: vec![],
            server_time: Timestamp(1_000),
        };
        let credentials = Credentials::new(response, &moment(boot, 50));
        for (boot, mono, left) in [
            (boot, 50, Some(100)),
            (boot, 149, Some(1)),
            (boot, 900, Some(0)),
            (Uuid::from_u128(2), 60, None),
        ] {
            assert_eq!(credentials.remaining(&moment(boot, mono)), left.map(Duration::from_micros));
        }
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
