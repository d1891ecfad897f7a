//! Authority of events: proof that the command role recorded an event (docs/decisions/0020).
//!
//! A proof is a COSE message, so its header names the algorithm and the key. Nothing is read or
//! written here; the log stores the proofs with the records.

use coset::iana::{self, Algorithm};
use coset::{CoseMac0, CoseMac0Builder, HeaderBuilder, TaggedCborSerializable};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::codec;
use crate::cose::{self, Hash, Kind, PublicKey, SigningKey};
use crate::numbers::StreamVersion;
use crate::stream::StreamName;
use crate::timestamp::Timestamp;

/// Version of the payload's format.
const FORMAT: u8 = 1;
/// First byte of a tagged COSE_Mac0 (tag 17).
const MAC0: u8 = 0xd1;

/// How an event's authority is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Ed25519 signature, which every role can verify.
    Signature,
    /// HMAC-SHA-256, which only command can verify.
    Mac,
}

impl Proof {
    /// The proof that an event needs; `None` when it needs none, because a device signed it, or it
    /// grants nothing.
    #[must_use]
    pub fn required_for(stream: &StreamName, kind: &str) -> Option<Self> {
        match stream {
            StreamName::DeviceReport(..) | StreamName::DevicePresence(_) => None,
            StreamName::Token(_) if kind == "ApiTokenUsed" => None,
            // Query acts on it.
            StreamName::Run(..) if kind == "DownloadLinkMade" => Some(Self::Signature),
            StreamName::Run(..) | StreamName::Session(..) => Some(Self::Mac),
            StreamName::Token(_)
            | StreamName::Device(_)
            | StreamName::Name(_)
            | StreamName::Project(_)
            | StreamName::Operation(_) => Some(Self::Signature),
        }
    }
}

/// Everything that a proof covers: an event and its position in the log.
#[derive(Clone, Copy, Debug)]
pub struct ProofContent<'a> {
    /// Project of the log.
    pub project: &'a str,
    /// Stream of the event.
    pub stream: &'a StreamName,
    /// Version of the stream with this event.
    pub stream_version: StreamVersion,
    /// Type of the event.
    pub kind: &'a str,
    /// Version of the type's shape.
    pub schema_version: u16,
    /// Time at which it happened.
    pub occurred_at: Timestamp,
    /// Who caused it.
    pub actor: &'a str,
    /// Exact bytes of the record.
    pub record: &'a [u8],
}

impl ProofContent<'_> {
    fn payload(&self) -> Vec<u8> {
        let entry = (
            self.project,
            self.stream.to_string(),
            self.stream_version,
            self.kind,
            self.schema_version,
            self.occurred_at,
            self.actor,
            Hash::of(self.record),
        );
        codec::encode(&(FORMAT, Hash::of(&codec::encode(&entry))))
    }
}

/// An event's authority is missing or does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The event carries no proof.
    #[error("the event has no proof of authority")]
    Missing,
    /// The proof is of another kind, another key, or another event.
    #[error("the event's proof of authority is invalid")]
    Invalid,
}

/// The key that command proves authority with. Everything is derived from one seed.
#[derive(Clone)]
pub struct AuthorityKey {
    signing: SigningKey,
    mac: MacKey,
}

#[derive(Clone)]
struct MacKey {
    key: [u8; 32],
    id: Hash,
}

impl AuthorityKey {
    /// A key from its seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = derived(seed, b"muster/authority/mac/v1");
        Self {
            signing: SigningKey::from_seed(&derived(seed, b"muster/authority/sign/v1")),
            mac: MacKey { id: Hash::of(&derived(&key, b"muster/authority/kid/v1")), key },
        }
    }

    /// The public half, for roles that verify.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.signing.public()
    }

    /// The proof of an event; `None` when it needs none.
    #[must_use]
    pub fn prove(&self, content: &ProofContent<'_>) -> Option<Vec<u8>> {
        match Proof::required_for(content.stream, content.kind)? {
            Proof::Signature => Some(self.signing.seal(Kind::Authority, content.payload())),
            Proof::Mac => Some(self.mac.seal(content.payload())),
        }
    }
}

impl std::fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthorityKey(kid {})", self.signing.thumbprint())
    }
}

impl MacKey {
    fn seal(&self, payload: Vec<u8>) -> Vec<u8> {
        let protected = HeaderBuilder::new()
            .algorithm(Algorithm::HMAC_256_256)
            .key_id(self.id.0.to_vec())
            .content_format(iana::CoapContentFormat::Cbor)
            .build();
        CoseMac0Builder::new()
            .protected(protected)
            .payload(payload)
            .create_tag(Kind::Authority.aad(), |bytes| {
                mac(&self.key, bytes).finalize().into_bytes().to_vec()
            })
            .build()
            .to_tagged_vec()
            .unwrap_or_default()
    }

    /// The payload, if this key sealed it.
    fn open(&self, message: &CoseMac0) -> Option<Vec<u8>> {
        let header = &message.protected.header;
        let is_ours = header.alg == Some(coset::Algorithm::Assigned(Algorithm::HMAC_256_256))
            && header.key_id == self.id.0
            && header.crit.is_empty()
            && message.unprotected.is_empty();
        // Without a payload there is nothing to verify, and coset would panic.
        let payload = message.payload.clone().filter(|_| is_ours)?;
        let verified = message.verify_payload_tag(
            Kind::Authority.aad(),
            || (),
            |tag, bytes| mac(&self.key, bytes).verify_slice(tag).map_err(|_| ()),
        );
        verified.ok().map(|()| payload)
    }
}

/// Verifies proofs of authority.
#[derive(Clone, Default)]
pub struct AuthorityVerifier {
    keys: Vec<PublicKey>,
    macs: Vec<MacKey>,
}

impl AuthorityVerifier {
    /// A verifier with public keys only, which accepts events with a MAC unchecked: roles without the
    /// secret act on no such event.
    #[must_use]
    pub fn from_public_keys(keys: Vec<PublicKey>) -> Self {
        Self { keys, macs: Vec::new() }
    }

    /// A verifier with whole keys: the current one, and previous ones.
    #[must_use]
    pub fn from_secret_keys(keys: &[AuthorityKey]) -> Self {
        Self {
            keys: keys.iter().map(AuthorityKey::public).collect(),
            macs: keys.iter().map(|key| key.mac.clone()).collect(),
        }
    }

    /// The same without the secrets.
    #[must_use]
    pub fn public_half(&self) -> Self {
        Self::from_public_keys(self.keys.clone())
    }

    /// The public keys that are accepted.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Verifies the proof of an event.
    ///
    /// # Errors
    /// When the event needs one and it is missing or wrong.
    pub fn verify(
        &self,
        content: &ProofContent<'_>,
        proof: Option<&[u8]>,
    ) -> Result<(), AuthorityError> {
        let payload = match Proof::required_for(content.stream, content.kind) {
            None => return Ok(()),
            Some(Proof::Mac) if self.macs.is_empty() => return Ok(()),
            Some(needed) => {
                let proof = proof.ok_or(AuthorityError::Missing)?;
                let is_mac = proof.first() == Some(&MAC0);
                match needed {
                    Proof::Mac if is_mac => self.open_mac(proof),
                    Proof::Signature if !is_mac => self.open_signature(proof),
                    _ => None,
                }
            }
        };
        let fits = payload.is_some_and(|payload| payload == content.payload());
        if fits { Ok(()) } else { Err(AuthorityError::Invalid) }
    }

    fn open_signature(&self, proof: &[u8]) -> Option<Vec<u8>> {
        let message = cose::Unverified::parse(proof).ok()?;
        let kid = message.kid();
        let key = self.keys.iter().find(|key| key.thumbprint() == kid)?;
        message.verify(Kind::Authority, key).ok()
    }

    fn open_mac(&self, proof: &[u8]) -> Option<Vec<u8>> {
        let message = CoseMac0::from_tagged_slice(proof).ok()?;
        self.macs.iter().find_map(|key| key.open(&message))
    }
}

impl std::fmt::Debug for AuthorityVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthorityVerifier({} keys)", self.keys.len())
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn mac(key: &[u8; 32], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(bytes);
    mac
}

fn derived(seed: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    mac(seed, purpose).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceId, OperationId, TokenId};
    use crate::numbers::Epoch;

    fn token(id: u128) -> StreamName {
        StreamName::Token(TokenId(uuid::Uuid::from_u128(id)))
    }

    fn run() -> StreamName {
        let id = uuid::Uuid::from_u128(7);
        StreamName::Run(OperationId(id), DeviceId(id))
    }

    fn content(stream: &StreamName) -> ProofContent<'_> {
        ProofContent {
            project: "default",
            stream,
            stream_version: StreamVersion::FIRST,
            kind: "ApiTokenCreated",
            schema_version: 1,
            occurred_at: Timestamp(5),
            actor: "token:x",
            record: b"record",
        }
    }

    #[test]
    fn a_proof_is_valid_for_one_event_at_one_position_by_one_key() {
        let (key, other) = (AuthorityKey::from_seed(&[1; 32]), AuthorityKey::from_seed(&[2; 32]));
        let verifier = AuthorityVerifier::from_secret_keys(std::slice::from_ref(&key));
        let (own, foreign) = (token(1), token(2));
        for stream in [token(1), run()] {
            let good = content(&stream);
            let proof = key.prove(&good).unwrap();
            assert_eq!(verifier.verify(&good, Some(&proof)), Ok(()));
            assert_eq!(verifier.verify(&good, None), Err(AuthorityError::Missing));
            let changed = [
                ProofContent { project: "other", ..good },
                ProofContent { stream: if stream == own { &foreign } else { &own }, ..good },
                ProofContent { stream_version: StreamVersion(2), ..good },
                ProofContent { kind: "ApiTokenRevoked", ..good },
                ProofContent { schema_version: 2, ..good },
                ProofContent { occurred_at: Timestamp(6), ..good },
                ProofContent { actor: "token:y", ..good },
                ProofContent { record: b"Record", ..good },
            ];
            for content in changed {
                let verified = verifier.verify(&content, Some(&proof));
                assert_eq!(verified, Err(AuthorityError::Invalid), "{content:?}");
            }
            let foreign = other.prove(&good).unwrap();
            assert_eq!(verifier.verify(&good, Some(&foreign)), Err(AuthorityError::Invalid));
            for index in 0..proof.len() {
                let mut bent = proof.clone();
                bent[index] ^= 1;
                let verified = verifier.verify(&good, Some(&bent));
                assert_eq!(verified, Err(AuthorityError::Invalid), "byte {index}");
            }
            for length in 0..proof.len() {
                assert!(verifier.verify(&good, Some(&proof[..length])).is_err(), "{length} bytes");
            }
        }
    }

    #[test]
    fn the_public_half_verifies_signatures_and_previous_keys_stay_valid() {
        let (old, new) = (AuthorityKey::from_seed(&[1; 32]), AuthorityKey::from_seed(&[2; 32]));
        let stream = token(1);
        let proof = old.prove(&content(&stream)).unwrap();
        let public = AuthorityVerifier::from_public_keys(vec![new.public(), old.public()]);
        assert_eq!(public.verify(&content(&stream), Some(&proof)), Ok(()));
        let public = AuthorityVerifier::from_public_keys(vec![new.public()]);
        assert_eq!(public.verify(&content(&stream), Some(&proof)), Err(AuthorityError::Invalid));
        let run = run();
        let proof = old.prove(&content(&run)).unwrap();
        let whole = AuthorityVerifier::from_secret_keys(&[new, old]);
        assert_eq!(whole.verify(&content(&run), Some(&proof)), Ok(()));
    }

    #[test]
    fn a_mac_is_rejected_where_a_signature_is_required() {
        let key = AuthorityKey::from_seed(&[1; 32]);
        let verifier = AuthorityVerifier::from_secret_keys(std::slice::from_ref(&key));
        let stream = run();
        let link = ProofContent { kind: "DownloadLinkMade", ..content(&stream) };
        let mac = key.mac.seal(link.payload());
        assert_eq!(verifier.verify(&link, Some(&mac)), Err(AuthorityError::Invalid));
        let signature = key.prove(&link).unwrap();
        assert_eq!(verifier.verify(&link, Some(&signature)), Ok(()));
    }

    #[test]
    fn reports_of_devices_and_uses_of_tokens_need_no_proof() {
        let id = DeviceId(uuid::Uuid::from_u128(7));
        let streams = [StreamName::DeviceReport(id, Epoch::FIRST), StreamName::DevicePresence(id)];
        for stream in streams {
            assert_eq!(Proof::required_for(&stream, "RunAccepted"), None);
        }
        assert_eq!(Proof::required_for(&token(1), "ApiTokenUsed"), None);
        assert_eq!(
            Proof::required_for(&StreamName::Device(id), "ApiTokenUsed"),
            Some(Proof::Signature)
        );
    }
}
