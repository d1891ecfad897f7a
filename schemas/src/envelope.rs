//! The payload of a device's event: who says what, in which order.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{self, DecodeError};
use crate::cose::{CoseError, Hash, Kind, SigningKey, Unverified};
use crate::ids::{DeviceId, ProjectId};
use crate::timestamp::Timestamp;

/// The largest sealed event that is sent or taken, in bytes.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

/// A device's event before it is sealed, and after it was opened.
///
/// `data` is CBOR inside a byte string: whatever it holds, the envelope can be read, so a device
/// whose data cannot be decoded never stalls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnvelope {
    /// The project that the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The enrollment's epoch; a new one starts `seq` at 1 again.
    pub epoch: u64,
    /// 1, 2, 3 … without a gap in one epoch.
    pub seq: u64,
    /// SHA-256 of the sealed bytes of the event before; 32 zero bytes for the first.
    pub prev: Hash,
    /// The kernel's boot id when the event was recorded.
    pub boot: Uuid,
    /// Microseconds on the monotonic clock of that boot.
    pub mono: u64,
    /// When it happened, as the device's wall clock said.
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

/// Why some bytes are not an envelope that a known device can have sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not sealed as it must be.
    #[error(transparent)]
    Cose(#[from] CoseError),
    /// Sealed, but the payload is no envelope.
    #[error("the payload is no event envelope: {0}")]
    Decode(#[from] DecodeError),
    /// Larger than [`MAX_EVENT_BYTES`].
    #[error("{0} bytes are too many for an event; at most {MAX_EVENT_BYTES} are taken")]
    TooLarge(usize),
    /// `epoch` and `seq` start at 1 and fit 63 bits (PostgreSQL's integers have a sign).
    #[error("epoch {epoch} and seq {seq} must both be from 1 to 2^63 - 1")]
    OutOfRange {
        /// The claimed epoch.
        epoch: u64,
        /// The claimed sequence number.
        seq: u64,
    },
}

impl DeviceEnvelope {
    /// Seals the event with the device's key. These bytes are what is sent, hashed and stored.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        key.seal(Kind::Event, codec::encode(self))
    }

    /// Reads an envelope out of a message. When the message was not verified, the envelope is a
    /// claim and nothing more.
    ///
    /// # Errors
    /// When the payload is no envelope.
    pub fn read(message: &Unverified) -> Result<Self, EnvelopeError> {
        Self::from_payload(message.payload())
    }

    /// Reads an envelope out of the bytes of a stored or received sealed event without checking
    /// its signature; for bytes that were checked before they were stored.
    ///
    /// # Errors
    /// When the bytes are no sealed envelope.
    pub fn from_sealed(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::from_payload(Unverified::parse(bytes)?.payload())
    }

    fn from_payload(payload: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = codec::decode(payload)?;
        let fits = |number: u64| number >= 1 && i64::try_from(number).is_ok();
        if fits(envelope.epoch) && fits(envelope.seq) {
            Ok(envelope)
        } else {
            Err(EnvelopeError::OutOfRange { epoch: envelope.epoch, seq: envelope.seq })
        }
    }
}

/// Parses a sealed event as it came off the wire, within [`MAX_EVENT_BYTES`]. The signature is not
/// looked at: look up the key by device, epoch and [`Unverified::kid`], then verify.
///
/// # Errors
/// When it cannot be attributed to anyone.
pub fn parse_sealed(bytes: &[u8]) -> Result<(Unverified, DeviceEnvelope), EnvelopeError> {
    if bytes.len() > MAX_EVENT_BYTES {
        return Err(EnvelopeError::TooLarge(bytes.len()));
    }
    let message = Unverified::parse(bytes)?;
    let envelope = DeviceEnvelope::read(&message)?;
    Ok((message, envelope))
}
