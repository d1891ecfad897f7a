//! Enrollment through a test's API client, which returns status and body of a refusal.

use std::sync::Arc;

use muster_schemas::wire::{EnrollResponse, NonceResponse};
use muster_schemas::{DeviceId, ProjectId, SigningKey};
use muster_simulate::{Enrolled, EnrollmentRequest, credentials_body};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::api::Api;

/// The request body that enrolls a device with these keys.
#[must_use]
pub fn enroll_body(key: &SigningKey, nats_key: &KeyPair, token: &str, name: &str) -> Value {
    EnrollmentRequest {
        key,
        nats_key,
        token,
        hostname: name,
        machine: None,
        macs: Vec::new(),
        previous: None,
    }
    .body()
}

/// Enrolls a new device.
///
/// # Panics
/// When enrollment fails.
pub async fn enroll(api: &Api, token: &str, name: &str) -> Enrolled {
    let key = SigningKey::from_seed(&rand::random());
    let nats_key = KeyPair::new_user();
    let body = enroll_body(&key, &nats_key, token, name);
    let response = api.with_token("").post("/api/v1/device/enroll", &body).await;
    let response: EnrollResponse =
        serde_json::from_value(response).expect("an enrollment's answer");
    Enrolled { key, nats_key: Arc::new(nats_key), response }
}

/// Requests new credentials by proof of the signing key; returns status and response.
pub async fn renew(
    api: &Api,
    key: &SigningKey,
    project: &ProjectId,
    device: DeviceId,
) -> (u16, Value) {
    let open = api.with_token("");
    let response =
        open.post("/api/v1/device/nonce", &json!({"project": project, "device": device})).await;
    let nonce: NonceResponse = serde_json::from_value(response).expect("a nonce");
    let body = credentials_body(key, project, device, nonce.nonce);
    open.send(reqwest::Method::POST, "/api/v1/device/credentials", Some(&body)).await
}
