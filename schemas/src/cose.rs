//! Signing and sealing: COSE_Sign1 (RFC 9052) over Ed25519, keys by their thumbprint (RFC 9679).
//!
//! The rule for a valid signature is the strict one of RFC 8032 (canonical encodings, no small
//! order points, no cofactor), so that two verifiers can never disagree about the log. Batch
//! verification is not used: it accepts signatures that this rule refuses.

use std::fmt;
use std::str::FromStr;

use coset::iana::{self, EnumI64};
use coset::{
    CborSerializable, CoseKey, CoseKeyBuilder, CoseSign1, CoseSign1Builder, HeaderBuilder, Label,
    TaggedCborSerializable, iana::Algorithm,
};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::Signer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// A SHA-256 digest: bytes in CBOR, lower-case hexadecimal in JSON.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of "no previous event": 32 zero bytes.
    pub const ZERO: Self = Self([0; 32]);

    /// The SHA-256 of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest from stored bytes; `None` unless there are 32.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = CoseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| Self::from_slice(&bytes))
            .ok_or(CoseError::NotAHash)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            let bytes = serde_bytes::ByteArray::<32>::deserialize(deserializer)?;
            Ok(Self(bytes.into_array()))
        }
    }
}

/// The purpose of a signed message. It is bound into the signature as `muster/<kind>/v1`, so that
/// bytes signed for one purpose are invalid for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event of a device.
    Event,
    /// A device's enrollment request.
    Enroll,
    /// A device's request for new broker credentials.
    Credentials,
    /// A device's hello after connecting.
    Hello,
    /// The server's response to a hello.
    Welcome,
    /// Config variables for a device.
    Config,
    /// The new key's consent to a key rotation.
    Rotation,
    /// The previous key's statement that the same device enrolls again.
    Continue,
    /// An order to run an action.
    Run,
    /// The server's receipt for a complete file.
    Stored,
    /// An order to end a run.
    Cancel,
    /// An order to open a channel.
    Open,
    /// A device's response to that.
    Opened,
    /// The command role recorded an event (docs/decisions/0020).
    Authority,
    /// The query role's resolution of a selector; not sent to devices.
    Targets,
}

impl Kind {
    /// The associated data of the signature.
    #[must_use]
    pub const fn aad(self) -> &'static [u8] {
        match self {
            Self::Event => b"muster/event/v1",
            Self::Enroll => b"muster/enroll/v1",
            Self::Credentials => b"muster/credentials/v1",
            Self::Hello => b"muster/hello/v1",
            Self::Welcome => b"muster/welcome/v1",
            Self::Config => b"muster/config/v1",
            Self::Rotation => b"muster/rotation/v1",
            Self::Continue => b"muster/continue/v1",
            Self::Run => b"muster/run/v1",
            Self::Cancel => b"muster/cancel/v1",
            Self::Open => b"muster/open/v1",
            Self::Opened => b"muster/opened/v1",
            Self::Authority => b"muster/authority/v1",
            Self::Targets => b"muster/targets/v1",
            Self::Stored => b"muster/stored/v1",
        }
    }
}

/// Why bytes are not a message that a key signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoseError {
    /// Not a tagged COSE_Sign1 with the protected headers that muster uses.
    #[error("not a COSE_Sign1 message: {0}")]
    Malformed(&'static str),
    /// Signed by another key.
    #[error("the message is signed by key {0}, which is not the expected one")]
    OtherKey(Hash),
    /// The signature does not match the bytes, the key and the kind.
    #[error("the signature is invalid")]
    BadSignature,
    /// Not a public key of a supported type.
    #[error("not a valid COSE_Key: {0}")]
    BadKey(&'static str),
    /// Not 64 hexadecimal digits.
    #[error("not a SHA-256 digest: 64 lower-case hexadecimal digits are needed")]
    NotAHash,
}

/// The content type of a payload inside COSE_Sign1.
const CONTENT_TYPE: iana::CoapContentFormat = iana::CoapContentFormat::Cbor;

/// A public key; Ed25519 is the only type so far.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// A key from the 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// When the bytes are not a point of the curve, or one of small order.
    pub fn from_ed25519(bytes: &[u8; 32]) -> Result<Self, CoseError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes)
            .map_err(|_| CoseError::BadKey("not a point of the curve"))?;
        if key.is_weak() {
            return Err(CoseError::BadKey("a point of small order"));
        }
        Ok(Self(key))
    }

    /// Decodes a COSE_Key.
    ///
    /// # Errors
    /// When it is malformed or not of a supported type.
    pub fn from_cose_key(bytes: &[u8]) -> Result<Self, CoseError> {
        let key = CoseKey::from_slice(bytes).map_err(|_| CoseError::BadKey("not a COSE_Key"))?;
        if key.kty != coset::KeyType::Assigned(iana::KeyType::OKP) {
            return Err(CoseError::BadKey("the key type is not OKP"));
        }
        let parameter = |label: iana::OkpKeyParameter| {
            key.params
                .iter()
                .find(|(name, _)| *name == Label::Int(label.to_i64()))
                .map(|(_, value)| value)
        };
        let curve = parameter(iana::OkpKeyParameter::Crv).and_then(ciborium::Value::as_integer);
        if curve != Some(iana::EllipticCurve::Ed25519.to_i64().into()) {
            return Err(CoseError::BadKey("the curve is not Ed25519"));
        }
        if parameter(iana::OkpKeyParameter::D).is_some() {
            return Err(CoseError::BadKey("it contains a private key; never send one"));
        }
        let x = parameter(iana::OkpKeyParameter::X)
            .and_then(|value| value.as_bytes())
            .and_then(|x| x.as_slice().try_into().ok())
            .ok_or(CoseError::BadKey("x is not 32 bytes"))?;
        Self::from_ed25519(x)
    }

    /// The COSE_Key with just its required parameters, deterministically encoded: the input of the
    /// thumbprint.
    #[must_use]
    pub fn to_cose_key(&self) -> Vec<u8> {
        let key = CoseKeyBuilder::new_okp_key()
            .param(
                iana::OkpKeyParameter::Crv.to_i64(),
                ciborium::Value::from(iana::EllipticCurve::Ed25519.to_i64()),
            )
            .param(
                iana::OkpKeyParameter::X.to_i64(),
                ciborium::Value::Bytes(self.0.as_bytes().to_vec()),
            )
            .build();
        key.to_vec().unwrap_or_default()
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn to_ed25519(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The same point as an X25519 public key, for sealing messages to the key's holder.
    #[must_use]
    pub fn to_x25519(&self) -> [u8; 32] {
        self.0.to_montgomery().to_bytes()
    }

    /// The key's thumbprint (RFC 9679): SHA-256 of its deterministic COSE_Key.
    #[must_use]
    pub fn thumbprint(&self) -> Hash {
        Hash::of(&self.to_cose_key())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", BASE64URL_NOPAD.encode(self.0.as_bytes()))
    }
}

/// A private Ed25519 key with its thumbprint. Its bytes are wiped when it is dropped, and `Debug`
/// does not show them.
#[derive(Clone)]
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    thumbprint: Hash,
}

impl SigningKey {
    /// A key from its 32 secret bytes (the seed of RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let thumbprint = PublicKey(key.verifying_key()).thumbprint();
        Self { key, thumbprint }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The public half's thumbprint, the `kid` of every message that this key signs.
    #[must_use]
    pub const fn thumbprint(&self) -> Hash {
        self.thumbprint
    }

    /// The X25519 private key that belongs to [`PublicKey::to_x25519`].
    #[must_use]
    pub fn to_x25519(&self) -> [u8; 32] {
        self.key.to_scalar_bytes()
    }

    /// Signs a payload: a tagged COSE_Sign1 whose signature binds the kind.
    #[must_use]
    pub fn seal(&self, kind: Kind, payload: Vec<u8>) -> Vec<u8> {
        let protected = HeaderBuilder::new()
            .algorithm(Algorithm::EdDSA)
            .key_id(self.thumbprint.0.to_vec())
            .content_format(CONTENT_TYPE)
            .build();
        CoseSign1Builder::new()
            .protected(protected)
            .payload(payload)
            .create_signature(kind.aad(), |bytes| self.key.sign(bytes).to_vec())
            .build()
            .to_tagged_vec()
            .unwrap_or_default()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(kid {})", self.thumbprint)
    }
}

/// A parsed message with an unverified signature: none of its content can be trusted.
#[derive(Debug)]
pub struct Unverified {
    message: CoseSign1,
    kid: Hash,
}

impl Unverified {
    /// Parses a tagged COSE_Sign1 with exactly the protected headers that muster writes.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, CoseError> {
        let message = CoseSign1::from_tagged_slice(bytes)
            .map_err(|_| CoseError::Malformed("not a tagged COSE_Sign1"))?;
        let header = &message.protected.header;
        if header.alg != Some(coset::Algorithm::Assigned(Algorithm::EdDSA)) {
            return Err(CoseError::Malformed("the algorithm is not EdDSA"));
        }
        if header.content_type != Some(coset::ContentType::Assigned(CONTENT_TYPE)) {
            return Err(CoseError::Malformed("the content type is not CBOR"));
        }
        if !header.crit.is_empty() || !header.rest.is_empty() {
            return Err(CoseError::Malformed("it has unknown headers"));
        }
        if !message.unprotected.is_empty() {
            return Err(CoseError::Malformed("it has unprotected headers"));
        }
        let kid = Hash::from_slice(&header.key_id)
            .ok_or(CoseError::Malformed("the key id is not a 32-byte thumbprint"))?;
        if message.payload.is_none() {
            return Err(CoseError::Malformed("it has no payload"));
        }
        Ok(Self { message, kid })
    }

    /// The thumbprint of the claimed signer's key.
    #[must_use]
    pub const fn kid(&self) -> Hash {
        self.kid
    }

    /// The unverified payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.message.payload.as_deref().unwrap_or_default()
    }

    /// Verifies the signature and returns the payload.
    ///
    /// # Errors
    /// When another key signed, or the signature does not match.
    pub fn verify(self, kind: Kind, key: &PublicKey) -> Result<Vec<u8>, CoseError> {
        if key.thumbprint() != self.kid {
            return Err(CoseError::OtherKey(self.kid));
        }
        self.message.verify_signature(kind.aad(), |signature, bytes| {
            let signature = ed25519_dalek::Signature::from_slice(signature)
                .map_err(|_| CoseError::BadSignature)?;
            key.0.verify_strict(bytes, &signature).map_err(|_| CoseError::BadSignature)
        })?;
        Ok(self.message.payload.unwrap_or_default())
    }
}

/// Parses and verifies in one step.
///
/// # Errors
/// When the bytes are not a COSE_Sign1 of this kind by this key.
pub fn open(bytes: &[u8], kind: Kind, key: &PublicKey) -> Result<Vec<u8>, CoseError> {
    Unverified::parse(bytes)?.verify(kind, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_message_opens_only_with_its_key_its_kind_and_its_bytes() {
        let sealed = key(1).seal(Kind::Event, b"hello".to_vec());
        assert_eq!(open(&sealed, Kind::Event, &key(1).public()), Ok(b"hello".to_vec()));
        assert_eq!(open(&sealed, Kind::Hello, &key(1).public()), Err(CoseError::BadSignature));
        assert!(matches!(
            open(&sealed, Kind::Event, &key(2).public()),
            Err(CoseError::OtherKey(_))
        ));
        for index in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[index] ^= 1;
            assert!(open(&bent, Kind::Event, &key(1).public()).is_err(), "byte {index}");
        }
        let mut longer = sealed;
        longer.push(0);
        assert!(open(&longer, Kind::Event, &key(1).public()).is_err());
    }

    #[test]
    fn a_public_key_round_trips_and_has_the_thumbprint_of_rfc_9679() {
        let public = key(1).public();
        let bytes = public.to_cose_key();
        // {1: 1, -1: 6, -2: x}: deterministic, as the RFC requires.
        assert_eq!(bytes[..7], [0xa3, 0x01, 0x01, 0x20, 0x06, 0x21, 0x58]);
        assert_eq!(PublicKey::from_cose_key(&bytes), Ok(public));
        assert_eq!(public.thumbprint(), Hash::of(&bytes));
    }

    #[test]
    fn weak_and_private_keys_are_rejected() {
        let mut weak = [0_u8; 32];
        weak[0] = 1;
        assert!(PublicKey::from_ed25519(&weak).is_err());
        let with_private = CoseKeyBuilder::new_okp_key()
            .param(-1, ciborium::Value::from(6))
            .param(-2, ciborium::Value::Bytes(key(1).public().to_ed25519().to_vec()))
            .param(-4, ciborium::Value::Bytes(vec![1; 32]))
            .build();
        assert_eq!(
            PublicKey::from_cose_key(&with_private.to_vec().unwrap_or_default()),
            Err(CoseError::BadKey("it contains a private key; never send one"))
        );
    }
}
