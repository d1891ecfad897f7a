//! Fetches new broker credentials, which only requires the signing key.

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::SigningKey;
use muster_schemas::codec;
use muster_schemas::cose::Kind;
use muster_schemas::wire::{
    CredentialsProof, CredentialsRequest, CredentialsResponse, NonceRequest, NonceResponse,
};

use crate::clock::Moment;
use crate::identity::{Credentials, Http, HttpError, Identity};
use crate::trust::Verifier;

/// Fetching credentials failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to get broker credentials for device {device} of project {project}")]
pub struct CredentialsError {
    /// The device.
    pub device: muster_schemas::DeviceId,
    /// Project of the device.
    pub project: muster_schemas::ProjectId,
    /// The cause.
    #[source]
    pub source: HttpError,
}

/// Requests a nonce, signs it, and returns credentials, with the first of these keys that the
/// server knows. There are two keys while a rotation is not yet in the log.
///
/// # Errors
/// When the server is unreachable, or refuses: a deleted device gets no credentials.
pub async fn fetch_credentials(
    identity: &Identity,
    keys: &[SigningKey],
) -> Result<Credentials, CredentialsError> {
    request_credentials(identity, keys).await.map_err(|source| CredentialsError {
        device: identity.device,
        project: identity.project.clone(),
        source,
    })
}

async fn request_credentials(
    identity: &Identity,
    keys: &[SigningKey],
) -> Result<Credentials, HttpError> {
    let http = Http::new(&identity.url, Verifier::new(identity.pinned_ca()))?;
    let mut first_error = None;
    for key in keys {
        match request_with_key(&http, identity, key).await {
            Err(error @ HttpError::Refused { status: 401, .. }) => {
                first_error = first_error.or(Some(error));
            }
            answered => return answered,
        }
    }
    Err(first_error.unwrap_or_else(|| HttpError::Unreachable {
        url: identity.url.to_string(),
        problem: "the device has no key to sign the request with".to_owned(),
    }))
}

async fn request_with_key(
    http: &Http,
    identity: &Identity,
    key: &SigningKey,
) -> Result<Credentials, HttpError> {
    let (project, device) = (identity.project.clone(), identity.device);
    let nonce: NonceResponse = http
        .post("/api/v1/device/nonce", &NonceRequest { project: project.clone(), device })
        .await?;
    let proof = CredentialsProof { project, device, nonce: nonce.nonce };
    let sealed = key.seal(Kind::Credentials, codec::encode(&proof));
    let request = CredentialsRequest { request: BASE64URL_NOPAD.encode(&sealed) };
    let response: CredentialsResponse = http.post("/api/v1/device/credentials", &request).await?;
    Ok(Credentials::new(response, &Moment::now()))
}
