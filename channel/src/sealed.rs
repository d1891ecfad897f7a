//! Messages that only the holder of a key can read: HPKE (RFC 9180) in base mode with X25519,
//! HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! The recipient's key is its Ed25519 signing key as an X25519 key, so that neither side has to be
//! sent another one. A sealed message is the encapsulated key (32 bytes) and the ciphertext.
//!
//! It does not authenticate the sender. The hash of an input is in the signed order, the hash of the kept
//! output in the run's signed end. Output beyond that is in no hash: the broker could replace it.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use muster_schemas::{PublicKey, SigningKey};

/// Bytes that sealing adds.
pub const SEALED_OVERHEAD: usize = ENCAPSULATED_KEY_BYTES + 16;
const ENCAPSULATED_KEY_BYTES: usize = 32;

/// A message that cannot be sealed to a key, or opened by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// The recipient's key is not usable.
    #[error("the recipient's key is invalid")]
    Key,
    /// Too short, changed, sealed to another key, or sealed for another context.
    #[error(
        "failed to open a sealed message: it is damaged, or was sealed for another key or context"
    )]
    Open,
}

/// Seals a message to the holder of `key`. It opens in the same context only.
///
/// # Errors
/// When the key is not usable.
pub fn seal_to(key: &PublicKey, context: &[u8], message: &[u8]) -> Result<Vec<u8>, SealedError> {
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&key.to_x25519())
        .map_err(|_| SealedError::Key)?;
    let (encapsulated, ciphertext) =
        hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256, _>(
            &OpModeS::Base,
            &key,
            context,
            message,
            &[],
            &mut rand::rng(),
        )
        .map_err(|_| SealedError::Key)?;
    let mut sealed = encapsulated.to_bytes().to_vec();
    sealed.extend(ciphertext);
    Ok(sealed)
}

/// Opens a message that was sealed to this key in this context.
///
/// # Errors
/// When it was not.
pub fn open_by(key: &SigningKey, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealedError> {
    let (encapsulated, ciphertext) =
        sealed.split_at_checked(ENCAPSULATED_KEY_BYTES).ok_or(SealedError::Open)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated)
        .map_err(|_| SealedError::Open)?;
    let key = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&key.to_x25519())
        .map_err(|_| SealedError::Open)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key,
        &encapsulated,
        context,
        ciphertext,
        &[],
    )
    .map_err(|_| SealedError::Open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_message_opens_only_with_its_key_and_context() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        for message in [&b""[..], b"hello", &[7; 400_000]] {
            let sealed = seal_to(&key.public(), b"context", message).unwrap();
            assert_eq!(sealed.len(), message.len() + SEALED_OVERHEAD);
            assert_eq!(open_by(&key, b"context", &sealed).unwrap(), message);
            assert_eq!(open_by(&other, b"context", &sealed), Err(SealedError::Open));
            assert_eq!(open_by(&key, b"another", &sealed), Err(SealedError::Open));
            for at in [0, ENCAPSULATED_KEY_BYTES, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(open_by(&key, b"context", &changed), Err(SealedError::Open), "{at}");
            }
            assert_ne!(sealed, seal_to(&key.public(), b"context", message).unwrap());
        }
        for short in [0, 1, ENCAPSULATED_KEY_BYTES, SEALED_OVERHEAD - 1] {
            assert_eq!(open_by(&key, b"context", &vec![0; short]), Err(SealedError::Open));
        }
        // The point of order one: a known shared secret.
        assert!(open_by(&key, b"context", &[0; 64]).is_err());
    }
}
