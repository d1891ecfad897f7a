//! The payload of a device's event: its origin and order.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{self, DecodeError};
use crate::cose::{CoseError, Hash, Kind, SigningKey, Unverified};
use crate::ids::{DeviceId, ProjectId};
use crate::numbers::{Epoch, Seq};
use crate::timestamp::Timestamp;

/// Maximum size of a signed event, in bytes.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

/// A device's event before it is signed, and after it was verified.
///
/// `data` is CBOR in a byte string: the envelope can be read independently of its content, so a
/// device whose data cannot be decoded never stalls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnvelope {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The enrollment's epoch; a new one starts `seq` at 1 again.
    pub epoch: Epoch,
    /// 1, 2, 3 … without gaps in one epoch.
    pub seq: Seq,
    /// SHA-256 of the previous event's signed bytes; 32 zero bytes for the first.
    pub prev: Hash,
    /// The kernel's boot id when the event was recorded.
    pub boot: Uuid,
    /// Microseconds on the monotonic clock of that boot.
    pub mono: u64,
    /// When it happened, by the device's wall clock.
    pub time: Timestamp,
    /// The event's type, such as `DeviceInventoryReported`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The version of the type's shape.
    #[serde(rename = "v")]
    pub version: u16,
    /// The event itself, CBOR.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// Why bytes are not an envelope that a known device can have signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not signed correctly.
    #[error(transparent)]
    Cose(#[from] CoseError),
    /// Signed, but the payload is not an envelope.
    #[error("the payload is not an event envelope: {0}")]
    Decode(#[from] DecodeError),
    /// Larger than [`MAX_EVENT_BYTES`].
    #[error("an event of {0} bytes is too large; the limit is {MAX_EVENT_BYTES}")]
    TooLarge(usize),
    /// `epoch` and `seq` start at 1 and fit 63 bits (PostgreSQL's integers have a sign).
    #[error("epoch {epoch} and seq {seq} must both be from 1 to 2^63 - 1")]
    OutOfRange {
        /// The claimed epoch.
        epoch: Epoch,
        /// The claimed sequence number.
        seq: Seq,
    },
}

impl DeviceEnvelope {
    /// Signs the event with the device's key. These bytes are sent, hashed and stored.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        key.seal(Kind::Event, codec::encode(self))
    }

    /// Decodes an envelope from a message. If the message was not verified, the envelope is only a
    /// claim.
    ///
    /// # Errors
    /// When the payload is not an envelope.
    pub fn read(message: &Unverified) -> Result<Self, EnvelopeError> {
        Self::from_payload(message.payload())
    }

    /// Decodes an envelope from the bytes of a stored or received signed event without verifying
    /// its signature; for bytes that were verified before they were stored.
    ///
    /// # Errors
    /// When the bytes are not a signed envelope.
    pub fn from_sealed(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::from_payload(Unverified::parse(bytes)?.payload())
    }

    fn from_payload(payload: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = codec::decode(payload)?;
        let fits = |number: u64| number >= 1 && i64::try_from(number).is_ok();
        if fits(envelope.epoch.get()) && fits(envelope.seq.get()) {
            Ok(envelope)
        } else {
            Err(EnvelopeError::OutOfRange { epoch: envelope.epoch, seq: envelope.seq })
        }
    }
}

/// Parses a signed event as received, within [`MAX_EVENT_BYTES`]. The signature is not verified: look
/// up the key by device, epoch and [`Unverified::kid`], then verify.
///
/// # Errors
/// When it cannot be attributed to a device.
pub fn parse_sealed(bytes: &[u8]) -> Result<(Unverified, DeviceEnvelope), EnvelopeError> {
    if bytes.len() > MAX_EVENT_BYTES {
        return Err(EnvelopeError::TooLarge(bytes.len()));
    }
    let message = Unverified::parse(bytes)?;
    let envelope = DeviceEnvelope::read(&message)?;
    Ok((message, envelope))
}
