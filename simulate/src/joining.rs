//! Asking to join, and asking for fresh credentials, as docs/protocol.md tells it.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::cose::Kind;
use muster_schemas::wire::{
    ContinueProof, CredentialsProof, EnrollProof, EnrollRequest, EnrollResponse,
};
use muster_schemas::{DeviceId, Hash, ProjectId, SigningKey, codec};
use nkeys::KeyPair;
use serde_json::{Value, json};
use uuid::Uuid;

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

/// A request to join, in all that may vary of it.
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
    /// The hashes of the network cards' addresses.
    pub macs: Vec<Hash>,
    /// The device that it has been, and its key.
    pub previous: Option<(&'a SigningKey, &'a ProjectId, DeviceId)>,
}

impl Joining<'_> {
    /// The body of the request.
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
            macs: self.macs.clone(),
            nonce: Uuid::new_v4(),
        };
        let sealed = self.key.seal(Kind::Enroll, codec::encode(&proof));
        // A key pair without its secret signs nothing, and is refused for it.
        let nats_proof = self.nats_key.sign(&sealed).unwrap_or_default();
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

/// The body that asks for fresh credentials, over the server's nonce.
#[must_use]
pub fn credentials_body(
    key: &SigningKey,
    project: &ProjectId,
    device: DeviceId,
    nonce: String,
) -> Value {
    let proof = CredentialsProof { project: project.clone(), device, nonce };
    let sealed = key.seal(Kind::Credentials, codec::encode(&proof));
    json!({"request": BASE64URL_NOPAD.encode(&sealed)})
}
