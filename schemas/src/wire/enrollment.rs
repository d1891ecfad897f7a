//! Enrollment and credentials: the two endpoints that a device uses over HTTPS.
//!
//! The JSON bodies contain signed CBOR in unpadded base64url, so that the signed bytes are verified.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::unique_map;
use crate::cose::Hash;
use crate::ids::{DeviceId, ProjectId};
use crate::names::{DeviceName, LabelKey, Labels};
use crate::numbers::Epoch;
use crate::timestamp::Timestamp;

/// Body of `POST /api/v1/device/enroll`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// COSE_Sign1 of kind `enroll` by the new signing key over an enroll proof; base64url.
    pub request: String,
    /// Signature of the NATS user key over the bytes of `request` (decoded); base64url.
    pub nats_proof: String,
    /// COSE_Sign1 of kind `continue` by the device's previous signing key, over a continue proof;
    /// base64url. The sender continues as that device, with its name, labels, config and history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// Proof by the previous key, to continue as the same device. CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueProof {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// SHA-256 of the signed enroll proof.
    pub request: Hash,
}

/// Proof by the new signing key, to enroll. CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollProof {
    /// The enrollment token, whole.
    pub token: String,
    /// The new signing key, a COSE_Key; it signs this message.
    #[serde(with = "serde_bytes")]
    pub signing_key: Vec<u8>,
    /// The new NATS user key, `U…`.
    pub nats_key: String,
    /// The requested name; derived from the host name when absent.
    pub name: Option<DeviceName>,
    /// Labels of the device, as far as the token allows them; the token's own labels take precedence.
    #[serde(deserialize_with = "unique_map", default)]
    pub labels: Labels,
    /// The host name.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id, with a prefix.
    pub machine: Option<Hash>,
    /// SHA-256 of each network card's address, with a prefix; at most 16 are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<Hash>,
    /// Random; makes a repeated request safe: the same nonce gets the same device.
    pub nonce: Uuid,
}

/// Response of `POST /api/v1/device/enroll`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollResponse {
    /// The device's project.
    pub project: ProjectId,
    /// The device's id.
    pub device: DeviceId,
    /// The device's name.
    pub name: DeviceName,
    /// The epoch that starts; `seq` starts at 1.
    pub epoch: Epoch,
    /// The project's operation key, a COSE_Key; base64url. The device pins it.
    pub operation_key: String,
    /// Credentials for the broker.
    pub credentials: CredentialsResponse,
    /// Keys of labels that the device sent and its token does not allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_labels: Vec<LabelKey>,
}

/// Response of `POST /api/v1/device/enroll` while an operator must decide: the same request, sent
/// again at intervals, gets the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollWaiting {
    /// The project.
    pub project: ProjectId,
    /// The id of the pending device.
    pub device: DeviceId,
    /// The name of the pending device.
    pub name: DeviceName,
    /// Seconds until the next attempt.
    pub retry_after: u32,
}

/// Body of `POST /api/v1/device/nonce`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceRequest {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
}

/// Response of `POST /api/v1/device/nonce`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NonceResponse {
    /// To be signed; valid for two minutes, for this device.
    pub nonce: String,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// Body of `POST /api/v1/device/credentials`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsRequest {
    /// COSE_Sign1 of kind `credentials` by the signing key over a credentials proof; base64url.
    pub request: String,
}

/// Proof by the signing key, to get new broker credentials. CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsProof {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The server's nonce.
    pub nonce: String,
}

/// Credentials for the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsResponse {
    /// The NATS user JWT.
    pub jwt: String,
    /// The JWT's expiry, by the server's clock.
    pub expires_at: Timestamp,
    /// The broker's addresses, such as `tls://muster.example:4222`. An unspecified host
    /// (`0.0.0.0`) means the host that sent this response.
    pub servers: Vec<String>,
    /// The server's clock.
    pub server_time: Timestamp,
}
