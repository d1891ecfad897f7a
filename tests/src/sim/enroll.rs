//! Joining, as docs/protocol.md tells it.

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::cose::Kind;
use muster_schemas::wire::{
    ContinueProof, CredentialsProof, EnrollProof, EnrollRequest, EnrollResponse, NonceResponse,
};
use muster_schemas::{DeviceId, Hash, ProjectId, SigningKey, codec};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

use crate::api::Api;

/// What an enrolled device knows.
#[derive(Clone)]
pub struct Enrolled {
    /// Its signing key.
    pub key: SigningKey,
    /// Its NATS user key.
    pub nats_key: Arc<KeyPair>,
    /// The server's answer.
    pub answer: EnrollResponse,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolled({})", self.answer.device)
    }
}

/// A request to join, in all that tests vary of it.
#[derive(Debug)]
pub struct Joining<'a> {
    /// The key that it will sign with.
    pub key: &'a SigningKey,
    /// The key for the broker.
    pub nats_key: &'a KeyPair,
    /// The enrollment token.
    pub token: &'a str,
    /// The host's own name.
    pub hostname: &'a str,
    /// The hash of the machine id.
    pub machine: Option<Hash>,
    /// The device that it has been, and its key.
    pub previous: Option<(&'a SigningKey, &'a ProjectId, DeviceId)>,
}

impl Joining<'_> {
    /// The body of the request.
    ///
    /// # Panics
    /// Never: the keys can sign.
    #[must_use]
    pub fn body(&self) -> Value {
        let proof = EnrollProof {
            token: self.token.to_owned(),
            signing_key: self.key.public().to_cose_key(),
            nats_key: self.nats_key.public_key(),
            name: None,
            labels: Default::default(),
            hostname: Some(self.hostname.to_owned()),
            machine: self.machine,
            nonce: Uuid::new_v4(),
        };
        let sealed = self.key.seal(Kind::Enroll, codec::encode(&proof));
        let nats_proof = self.nats_key.sign(&sealed).expect("a key that can sign");
        let request = Hash::of(&sealed);
        let previous = self.previous.map(|(key, project, device)| {
            let proof = ContinueProof { project: project.clone(), device, request };
            BASE64URL_NOPAD.encode(&key.seal(Kind::Continue, codec::encode(&proof)))
        });
        json!(EnrollRequest {
            request: BASE64URL_NOPAD.encode(&sealed),
            nats_proof: BASE64URL_NOPAD.encode(&nats_proof),
            previous,
        })
    }
}

/// The body that enrolls a device with these keys.
#[must_use]
pub fn enroll_body(key: &SigningKey, nats_key: &KeyPair, token: &str, name: &str) -> Value {
    Joining { key, nats_key, token, hostname: name, machine: None, previous: None }.body()
}

/// Enrolls a new device.
///
/// # Panics
/// When it is refused.
pub async fn enroll(api: &Api, token: &str, name: &str) -> Enrolled {
    let key = SigningKey::from_seed(&rand::random());
    let nats_key = KeyPair::new_user();
    let body = enroll_body(&key, &nats_key, token, name);
    let answer = api.with_token("").post("/api/v1/device/enroll", &body).await;
    let answer: EnrollResponse = serde_json::from_value(answer).expect("an enrollment's answer");
    Enrolled { key, nats_key: Arc::new(nats_key), answer }
}

/// Fresh credentials by proof of the signing key: status and answer.
pub async fn renew(
    api: &Api,
    key: &SigningKey,
    project: &ProjectId,
    device: DeviceId,
) -> (u16, Value) {
    let open = api.with_token("");
    let asked =
        open.post("/api/v1/device/nonce", &json!({"project": project, "device": device})).await;
    let nonce: NonceResponse = serde_json::from_value(asked).expect("a nonce");
    let proof = CredentialsProof { project: project.clone(), device, nonce: nonce.nonce };
    let sealed = key.seal(Kind::Credentials, codec::encode(&proof));
    let body = json!({"request": BASE64URL_NOPAD.encode(&sealed)});
    open.send(reqwest::Method::POST, "/api/v1/device/credentials", Some(&body)).await
}
