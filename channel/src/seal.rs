//! The cryptography of a channel.
//!
//! Each side makes an X25519 key for this channel alone. The shared secret goes through HKDF-SHA256
//! (RFC 5869), salted with the hash of the signed open, to one ChaCha20-Poly1305 key (RFC 8439) for
//! each direction; the info names the direction and both public keys. A message is an 8-byte counter
//! and the ciphertext; the nonce is 4 zero bytes and the counter, which starts at 0 and never skips.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::SystemRandom;
use bytes::Bytes;
use muster_schemas::Hash;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = COUNTER_BYTES + 16;
const COUNTER_BYTES: usize = 8;

/// A channel's keys cannot be generated, or a message is not the next one of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A key cannot be generated.
    #[error("failed to create a key for a channel")]
    Key,
    /// The other side's key is not an X25519 key.
    #[error("the peer's channel key is invalid")]
    OtherKey,
    /// Too short.
    #[error("a message of a channel is too short")]
    Short,
    /// Not the next message: one was lost or duplicated.
    #[error("message {found} of a channel arrived instead of message {expected}")]
    Order {
        /// The expected counter.
        expected: u64,
        /// The received counter.
        found: u64,
    },
    /// Not encrypted by the other side.
    #[error("a message of a channel was not sealed by the peer")]
    Forged,
}

/// Which side of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server, which sends on `.down`.
    Server,
    /// The device, which sends on `.up`.
    Device,
}

/// One side's half of a channel's keys, before the other half is received.
pub struct KeyExchange {
    private: EphemeralPrivateKey,
    public: Vec<u8>,
}

impl std::fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Half").finish_non_exhaustive()
    }
}

/// The keys of one side of a channel.
#[derive(Debug)]
pub struct Keys {
    /// For messages of this side.
    pub seal: Sealer,
    /// For messages of the other side.
    pub open: Opener,
}

impl KeyExchange {
    /// Generates a key.
    ///
    /// # Errors
    /// When the system provides no randomness.
    pub fn new() -> Result<Self, SealError> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
            .map_err(|_| SealError::Key)?;
        let public = private.compute_public_key().map_err(|_| SealError::Key)?.as_ref().to_vec();
        Ok(Self { private, public })
    }

    /// The public key, 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Derives the channel's keys from the other side's public key and the hash of the signed open.
    ///
    /// # Errors
    /// When the other key is not usable.
    pub fn agree(self, side: Side, other: &[u8], open: &Hash) -> Result<Keys, SealError> {
        let (server, device) = match side {
            Side::Server => (self.public.as_slice(), other),
            Side::Device => (other, self.public.as_slice()),
        };
        let peer = UnparsedPublicKey::new(&X25519, other);
        let derive = |secret: &[u8]| {
            let secret = Salt::new(HKDF_SHA256, &open.0).extract(secret);
            let key = |direction: &'static [u8]| {
                let info = [b"muster/channel/v1/".as_slice(), direction, server, device];
                let mut bytes = [0_u8; 32];
                secret
                    .expand(&info, HKDF_SHA256)
                    .and_then(|okm| okm.fill(&mut bytes))
                    .map_err(|_| SealError::Key)?;
                let key =
                    UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| SealError::Key)?;
                Ok(LessSafeKey::new(key))
            };
            Ok((key(b"down")?, key(b"up")?))
        };
        let (down, up) =
            agreement::agree_ephemeral(self.private, peer, SealError::OtherKey, derive)?;
        let (seal, open) = match side {
            Side::Server => (down, up),
            Side::Device => (up, down),
        };
        Ok(Keys { seal: Sealer { key: seal, next: 0 }, open: Opener { key: open, next: 0 } })
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0_u8; 12];
    let (_, tail) = bytes.split_at_mut(4);
    tail.copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Encrypts messages of this side.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    next: u64,
}

impl Sealer {
    /// The counter of the next message.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Encrypts the next message, which `write` appends.
    ///
    /// # Errors
    /// When it is too large.
    pub fn seal(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, SealError> {
        let counter = self.next.to_be_bytes();
        let mut message = counter.to_vec();
        write(&mut message);
        let body = message.get_mut(COUNTER_BYTES..).unwrap_or_default();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.next), Aad::from(&counter), body)
            .map_err(|_| SealError::Key)?;
        message.extend_from_slice(tag.as_ref());
        self.next += 1;
        Ok(message)
    }
}

/// Decrypts messages of the other side.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    next: u64,
}

impl Opener {
    /// The counter of the next message.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Decrypts the next message.
    ///
    /// # Errors
    /// When it is not the next one, or was not encrypted by the other side.
    pub fn open(&mut self, message: &[u8]) -> Result<Bytes, SealError> {
        let (found, plain) = self.unseal(message, |found, next| found == next)?;
        self.next = found + 1;
        Ok(plain)
    }

    /// Decrypts a message independently of its order, without advancing the counter.
    ///
    /// # Errors
    /// When it was not encrypted by the other side.
    pub(crate) fn open_any(&self, message: &[u8]) -> Result<Bytes, SealError> {
        self.unseal(message, |_, _| true).map(|(_, plain)| plain)
    }

    /// Decrypts a message that is out of order, without advancing the counter.
    ///
    /// # Errors
    /// When it is the next one, or an earlier one, or was not encrypted by the other side.
    pub fn open_ahead(&self, message: &[u8]) -> Result<Bytes, SealError> {
        self.unseal(message, |found, next| found > next).map(|(_, plain)| plain)
    }

    fn unseal(
        &self,
        message: &[u8],
        fits: impl Fn(u64, u64) -> bool,
    ) -> Result<(u64, Bytes), SealError> {
        let (counter, sealed) =
            message.split_first_chunk::<COUNTER_BYTES>().ok_or(SealError::Short)?;
        let found = u64::from_be_bytes(*counter);
        if !fits(found, self.next) {
            return Err(SealError::Order { expected: self.next, found });
        }
        let mut plain = sealed.to_vec();
        let length = self
            .key
            .open_in_place(nonce(found), Aad::from(counter), &mut plain)
            .map_err(|_| SealError::Forged)?
            .len();
        plain.truncate(length);
        Ok((found, plain.into()))
    }
}
