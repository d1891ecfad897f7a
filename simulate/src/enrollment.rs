//! Requests for enrollment and for new credentials, as described in docs/protocol.md.

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

/// The state of an enrolled device.
#[derive(Clone)]
pub struct Enrolled {
    /// Signing key of the device.
    pub key: SigningKey,
    /// NATS user key of the device.
    pub nats_key: Arc<KeyPair>,
    /// The server's response.
    pub response: EnrollResponse,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolled({})", self.response.device)
    }
}

/// An enrollment request, with all its variable parts.
#[derive(Debug)]
pub struct EnrollmentRequest<'a> {
    /// The signing key of the device.
    pub key: &'a SigningKey,
    /// The key for the broker.
    pub nats_key: &'a KeyPair,
    /// The enrollment token.
    pub token: &'a str,
    /// Host name of the machine.
    pub hostname: &'a str,
    /// Hash of the machine id.
    pub machine: Option<Hash>,
    /// Hashes of the network cards' addresses.
    pub macs: Vec<Hash>,
    /// Previous identity of the machine, with its key.
    pub previous: Option<(&'a SigningKey, &'a ProjectId, DeviceId)>,
}

impl EnrollmentRequest<'_> {
    /// Builds the body of the request.
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
        // A key pair without its secret cannot sign, and the server refuses the request.
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

/// Builds the body of a request for new credentials, with the server's nonce.
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
