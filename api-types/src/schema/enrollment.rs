//! Requests and responses of agents, which are part of the published language.

use utoipa::ToSchema;

use super::{DeviceId, DeviceName, LabelKey, ProjectId, Timestamp};

/// Body of `POST /api/v1/device/enroll`.
#[derive(Debug, ToSchema)]
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

/// Response of `POST /api/v1/device/enroll`.
#[derive(Debug, ToSchema)]
pub struct EnrollResponse {
    /// The device's project.
    pub project: ProjectId,
    /// The device's id.
    pub device: DeviceId,
    /// The device's name.
    pub name: DeviceName,
    /// The epoch that starts; `seq` starts at 1.
    #[schema(value_type = u64)]
    pub epoch: muster_schemas::Epoch,
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
#[derive(Debug, ToSchema)]
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
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NonceRequest {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
}

/// Response of `POST /api/v1/device/nonce`.
#[derive(Debug, ToSchema)]
pub struct NonceResponse {
    /// To be signed; valid for two minutes, for this device.
    pub nonce: String,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// Body of `POST /api/v1/device/credentials`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialsRequest {
    /// COSE_Sign1 of kind `credentials` by the signing key over a credentials proof; base64url.
    pub request: String,
}

/// Credentials for the broker.
#[derive(Debug, ToSchema)]
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
