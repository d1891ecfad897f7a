//! Joining, and coming back: the two endpoints that a device reaches over HTTPS.
//!
//! The JSON bodies carry sealed CBOR in unpadded base64url, so that what was signed is what is
//! checked.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::codec::unique_map;
use crate::cose::Hash;
use crate::ids::{DeviceId, ProjectId};
use crate::names::{DeviceName, LabelKey, Labels};
use crate::timestamp::Timestamp;

/// Body of `POST /api/v1/device/enroll`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// COSE_Sign1 of kind `enroll` by the new signing key over an enroll proof; base64url.
    pub request: String,
    /// Signature of the NATS user key over the bytes of `request` (decoded); base64url.
    pub nats_proof: String,
    /// COSE_Sign1 of kind `continue` by the signing key that the device has had until now, over
    /// a continue proof; base64url. Whoever sends it goes on as that
    /// device, with its name, labels, config and history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// What a device signs with the key that it has had, to go on as the same device. CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueProof {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// SHA-256 of the sealed enroll proof that goes with this.
    pub request: Hash,
}

/// What a device signs with its new signing key to enroll. CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollProof {
    /// The enrollment token, whole.
    pub token: String,
    /// The new signing key, a COSE_Key; it seals this message.
    #[serde(with = "serde_bytes")]
    pub signing_key: Vec<u8>,
    /// The new NATS user key, `U…`.
    pub nats_key: String,
    /// The name that the device would like; made from its host name when absent.
    pub name: Option<DeviceName>,
    /// Labels that the device brings along, as far as the token allows them; those of the token win.
    #[serde(deserialize_with = "unique_map", default)]
    pub labels: Labels,
    /// The host's own name.
    pub hostname: Option<String>,
    /// SHA-256 of the machine id, under a prefix of muster's own.
    pub machine: Option<Hash>,
    /// SHA-256 of each network card's address, under a prefix of muster's own; at most 16 count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<Hash>,
    /// Random; makes a lost answer safe to ask for again: the same nonce gets the same device.
    pub nonce: Uuid,
}

/// Answer of `POST /api/v1/device/enroll`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrollResponse {
    /// The project that the device joined.
    pub project: ProjectId,
    /// The device's id.
    pub device: DeviceId,
    /// The device's name.
    pub name: DeviceName,
    /// The epoch that begins; `seq` starts at 1.
    pub epoch: u64,
    /// The project's operation key, a COSE_Key; base64url. The device pins it.
    pub operation_key: String,
    /// How to reach the broker.
    pub credentials: CredentialsResponse,
    /// Labels that the device brought and its token does not allow, by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_labels: Vec<LabelKey>,
}

/// Answer of `POST /api/v1/device/enroll` while an operator has to decide: the same request, sent
/// again now and then, gets the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrollWaiting {
    /// The project.
    pub project: ProjectId,
    /// The id under which it waits.
    pub device: DeviceId,
    /// The name under which it waits.
    pub name: DeviceName,
    /// Ask again after this many seconds.
    pub retry_after: u32,
}

/// Body of `POST /api/v1/device/nonce`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NonceRequest {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
}

/// Answer of `POST /api/v1/device/nonce`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NonceResponse {
    /// To be signed; good for two minutes, for this device.
    pub nonce: String,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// Body of `POST /api/v1/device/credentials`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialsRequest {
    /// COSE_Sign1 of kind `credentials` by the signing key over a credentials proof; base64url.
    pub request: String,
}

/// What a device signs with its signing key to get fresh broker credentials. CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsProof {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The nonce that the server gave.
    pub nonce: String,
}

/// How to reach the broker, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CredentialsResponse {
    /// The NATS user JWT.
    pub jwt: String,
    /// When the JWT stops working, by the server's clock.
    pub expires_at: Timestamp,
    /// The broker's addresses, such as `tls://muster.example:4222`. An unspecified host
    /// (`0.0.0.0`) means the host that answered this request.
    pub servers: Vec<String>,
    /// The server's clock.
    pub server_time: Timestamp,
}
