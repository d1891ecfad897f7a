//! The server's HTTPS API for devices: enrollment and credentials, with retries while it is busy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use muster_schemas::errors::root_cause;
use muster_schemas::wire::{CredentialsResponse, EnrollResponse, NonceResponse};
use muster_schemas::{DeviceId, ProjectId, SigningKey};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::enrollment::{self, Enrolled, EnrollmentRequest};

/// Maximum number of attempts while the server is busy or unavailable.
const MAX_ATTEMPTS: u32 = 120;
/// Timeout of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The CA is invalid.
    #[error("the CA in {0} is invalid: {1}")]
    Ca(String, String),
    /// The server does not respond.
    #[error("failed to reach the server at {url}: {problem}")]
    Unreachable {
        /// Address of the server.
        url: String,
        /// The cause.
        problem: String,
    },
    /// The server refused the request.
    #[error("the server rejected {path}: {status} {detail}")]
    Refused {
        /// Path of the request.
        path: &'static str,
        /// The HTTP status.
        status: u16,
        /// Message of the server.
        detail: String,
    },
    /// The enrollment waits for an operator's approval.
    #[error(
        "devices of this token wait for an operator's approval; use a token without --approval"
    )]
    PendingApproval,
    /// The response cannot be parsed.
    #[error("the response to {0} is invalid: {1}")]
    InvalidResponse(&'static str, String),
}

/// A client of one server's API; cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    url: String,
}

impl ApiClient {
    /// Creates a client for a URL, with a CA file.
    ///
    /// # Errors
    /// When the CA is invalid.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, ApiError> {
        let mut http = reqwest::Client::builder().timeout(RESPONSE_TIMEOUT);
        if let Some(ca) = ca {
            let broken = |problem: String| ApiError::Ca(ca.display().to_string(), problem);
            let pem = std::fs::read(ca).map_err(|error| broken(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| broken(error.to_string()))?;
            http = http.tls_certs_only(certificates);
        }
        let url = url.trim_end_matches('/').to_owned();
        let http = http.build().map_err(|error| ApiError::Unreachable {
            url: url.clone(),
            problem: error.to_string(),
        })?;
        Ok(Self { http, url })
    }

    /// Enrolls a new device.
    ///
    /// # Errors
    /// When it is refused, or the server does not respond despite retries.
    #[boxed]
    pub async fn enroll(&self, token: &str, name: &str) -> Result<Enrolled, ApiError> {
        const PATH: &str = "/api/v1/device/enroll";
        let key = SigningKey::from_seed(&rand::random());
        let nats_key = KeyPair::new_user();
        let asks = EnrollmentRequest {
            key: &key,
            nats_key: &nats_key,
            token,
            hostname: name,
            machine: None,
            macs: Vec::new(),
            previous: None,
        };
        let (status, response) = self.post(PATH, &asks.body()).await?;
        if status == 202 {
            return Err(ApiError::PendingApproval);
        }
        let response: EnrollResponse = read(PATH, response)?;
        Ok(Enrolled { key, nats_key: Arc::new(nats_key), response })
    }

    /// Fetches new broker credentials for a device.
    ///
    /// # Errors
    /// When it is refused, or the server does not respond despite retries.
    #[boxed]
    pub async fn credentials(
        &self,
        key: &SigningKey,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<CredentialsResponse, ApiError> {
        const NONCE: &str = "/api/v1/device/nonce";
        const PATH: &str = "/api/v1/device/credentials";
        let (_, response) =
            self.post(NONCE, &json!({"project": project, "device": device})).await?;
        let nonce: NonceResponse = read(NONCE, response)?;
        let body = enrollment::credentials_body(key, project, device, nonce.nonce);
        let (_, response) = self.post(PATH, &body).await?;
        read(PATH, response)
    }

    async fn post(&self, path: &'static str, body: &Value) -> Result<(u16, Value), ApiError> {
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            let sent = self.http.post(format!("{}{path}", self.url)).json(body).send().await;
            match sent {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let wait = response
                        .headers()
                        .get(reqwest::header::RETRY_AFTER)
                        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                    let content: Value = response.json().await.unwrap_or_default();
                    if (200..300).contains(&status) {
                        return Ok((status, content));
                    }
                    let detail = content["detail"].as_str().unwrap_or_default().to_owned();
                    let rejection = ApiError::Refused { path, status, detail };
                    // Too many requests, or a part of the server is unavailable: retry, like
                    // agents.
                    if status != 429 && status < 500 {
                        return Err(rejection);
                    }
                    last = Some(rejection);
                    pause(Duration::from_secs(wait.unwrap_or(1).min(10))).await;
                }
                Err(error) => {
                    let problem = root_cause(&error);
                    last = Some(ApiError::Unreachable { url: self.url.clone(), problem });
                    pause(Duration::from_secs(1)).await;
                }
            }
        }
        Err(last.unwrap_or(ApiError::PendingApproval))
    }
}

/// Waits about this long, with jitter, so that clients that were refused together do not return
/// together.
async fn pause(mean: Duration) {
    tokio::time::sleep(mean.mul_f64(0.5 + rand::random::<f64>())).await;
}

fn read<T: serde::de::DeserializeOwned>(
    path: &'static str,
    response: Value,
) -> Result<T, ApiError> {
    serde_json::from_value(response)
        .map_err(|error| ApiError::InvalidResponse(path, error.to_string()))
}
