//! Validation of the messages of one batch: a pure function of the messages and of the log's
//! knowledge of their devices.
//!
//! Signature verification is the expensive part, so it is done here, outside of any lock, and only
//! for messages that can still be appended.

use std::collections::BTreeMap;

use bytes::Bytes;
use muster_eventlog::{Append, DeviceAccess, Expected, NewEvent, StreamAppend};
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::envelope::parse_sealed;
use muster_schemas::events::{Author, DeviceEventUnreadable, DeviceKeyRotated, author};
use muster_schemas::wire::Ack;
use muster_schemas::{
    DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, PublicKey, Seq, StreamName, codec,
    cose, subjects,
};

/// Why a message is a dead letter. The names are in the log's table and in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Not a signed envelope.
    NoEnvelope,
    /// The envelope names another device or project than its subject.
    ForeignSubject,
    /// The device is unknown, or not in this epoch.
    UnknownDevice,
    /// The device was deleted, or has enrolled again.
    ClosedEpoch,
    /// Signed by a key that the device does not have, or no longer has.
    UnknownKey,
    /// The signature is invalid.
    BadSignature,
    /// The log has another event with this sequence number.
    Fork,
}

impl Cause {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoEnvelope => "no_envelope",
            Self::ForeignSubject => "foreign_subject",
            Self::UnknownDevice => "unknown_device",
            Self::ClosedEpoch => "closed_epoch",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Fork => "fork",
        }
    }
}

/// A received message.
#[derive(Clone, Debug)]
pub struct InboundMessage {
    /// The subject, as stored by the broker.
    pub subject: String,
    /// The message.
    pub bytes: Bytes,
    /// Whether an earlier worker has processed it: it is read again for its acknowledgment.
    pub is_repeated: bool,
}

/// A rejected message, with its cause.
#[derive(Clone, Debug)]
pub(crate) struct RejectedMessage {
    pub(crate) inbound: InboundMessage,
    pub(crate) cause: Cause,
    pub(crate) detail: String,
}

/// A message whose envelope matches its subject; its signature is not verified yet.
#[derive(Debug)]
pub(crate) struct AttributedMessage {
    pub(crate) inbound: InboundMessage,
    message: Unverified,
    envelope: DeviceEnvelope,
    hash: Hash,
}

/// A device in one epoch.
pub(crate) type Key = (ProjectId, DeviceId, Epoch);

/// The messages of a batch by device and epoch, each in order of `seq`.
pub(crate) type AttributedMessages = BTreeMap<Key, Vec<AttributedMessage>>;

/// The result for one device's messages.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) key: Key,
    /// The append to the log.
    pub(crate) append: Option<Append>,
    /// The messages of `append`, in case the log rejects it.
    pub(crate) messages: Vec<InboundMessage>,
    /// The acknowledgment for the device.
    pub(crate) ack: Ack,
    /// Another key signs from here on: the cached state of the device is stale.
    pub(crate) is_rotated: bool,
}

/// Parses the messages, and sorts them by device, epoch and `seq`.
pub(crate) fn group_by_device(
    inbound: Vec<InboundMessage>,
) -> (AttributedMessages, Vec<RejectedMessage>) {
    let mut attributed = AttributedMessages::new();
    let mut rejected = Vec::new();
    for arrival in inbound {
        match read(arrival) {
            Ok((key, entry)) => attributed.entry(key).or_default().push(entry),
            Err(refusal) => rejected.push(refusal),
        }
    }
    for attributed in attributed.values_mut() {
        attributed.sort_by_key(|entry| entry.envelope.seq);
    }
    (attributed, rejected)
}

fn read(inbound: InboundMessage) -> Result<(Key, AttributedMessage), RejectedMessage> {
    let (message, envelope) = match parse_sealed(&inbound.bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            let detail = error.to_string();
            return Err(RejectedMessage { inbound, cause: Cause::NoEnvelope, detail });
        }
    };
    let named = (&envelope.project, envelope.device);
    let from = subjects::parse_stored(&inbound.subject);
    if from.as_ref().map(|(project, device, _)| (project, *device)) != Some(named) {
        let detail =
            format!("the envelope names device {} of {}", envelope.device, envelope.project);
        return Err(RejectedMessage { inbound, cause: Cause::ForeignSubject, detail });
    }
    let key = (envelope.project.clone(), envelope.device, envelope.epoch);
    let hash = Hash::of(&inbound.bytes);
    Ok((key, AttributedMessage { inbound, message, envelope, hash }))
}

/// Whether the cached state must be reloaded before these messages are validated: they name an
/// unknown epoch or key.
pub(crate) fn needs_reload(
    access: &DeviceAccess,
    epoch: Epoch,
    messages: &[AttributedMessage],
) -> bool {
    access.epoch(epoch).is_none()
        || messages.iter().any(|entry| access.key(&entry.message.kid()).is_none())
}

/// Validates one device's messages in one epoch: events after the watermark are accepted while they
/// are signed and chained, a gap requests a retransmission, known events are acknowledged again.
pub(crate) fn validate(
    key: Key,
    messages: Vec<AttributedMessage>,
    access: &DeviceAccess,
    rejected: &mut Vec<RejectedMessage>,
) -> Option<Chain> {
    let (_, device, epoch) = &key;
    let mut refuse_all = |attributed: Vec<AttributedMessage>, cause: Cause, detail: &str| {
        rejected.extend(attributed.into_iter().map(|entry| RejectedMessage {
            inbound: entry.inbound,
            cause,
            detail: detail.to_owned(),
        }));
        None
    };
    let Some(current) = access.epoch(*epoch) else {
        let detail = format!("epoch {epoch} was never assigned to this device");
        return refuse_all(messages, Cause::UnknownDevice, &detail);
    };
    if current.is_closed {
        let detail = "the device was deleted, or has enrolled again since";
        return refuse_all(messages, Cause::ClosedEpoch, detail);
    }

    let mut tail = Tail {
        epoch: *epoch,
        seq: current.seq,
        tip: current.tip,
        keys: access.keys.clone(),
        is_rotated: false,
    };
    let (mut events, mut taken, mut resend) = (Vec::new(), Vec::new(), false);
    for entry in messages {
        let AttributedMessage { inbound, message, envelope, hash } = entry;
        if envelope.seq < tail.seq || (envelope.seq == tail.seq && hash == tail.tip) {
            continue; // The log has it.
        }
        if envelope.seq > tail.seq + 1 {
            resend = true; // And with it, all that follows.
            break;
        }
        match tail.accept(message, &envelope, &inbound.bytes, hash) {
            Ok(event) => {
                events.push(event);
                taken.push(inbound);
            }
            Err((cause, detail)) => rejected.push(RejectedMessage { inbound, cause, detail }),
        }
    }

    let Tail { seq, tip, is_rotated, .. } = tail;
    let append = (!events.is_empty()).then(|| {
        let mut append = Append::by_actor(format!("device:{device}"));
        append.streams.push(StreamAppend {
            stream: StreamName::DeviceReport(*device, *epoch),
            expected: Expected::Tip { version: current.seq.into(), tip: current.tip },
            events,
            tip: Some(tip),
        });
        append
    });
    let ack = Ack { epoch: *epoch, seq, hash: tip, resend };
    Some(Chain { key, append, messages: taken, ack, is_rotated })
}

/// The end of a device's chain, and the keys that sign the next event.
struct Tail {
    epoch: Epoch,
    seq: Seq,
    tip: Hash,
    keys: Vec<(Hash, PublicKey)>,
    is_rotated: bool,
}

impl Tail {
    /// Appends the next event, or returns why it is refused.
    fn accept(
        &mut self,
        message: Unverified,
        envelope: &DeviceEnvelope,
        sealed: &Bytes,
        hash: Hash,
    ) -> Result<NewEvent, (Cause, String)> {
        let kid = message.kid();
        let Some((_, public)) = self.keys.iter().find(|(fingerprint, _)| *fingerprint == kid)
        else {
            let detail = format!(
                "the device has no valid key {kid}; is an old copy of its data folder in use?"
            );
            return Err((Cause::UnknownKey, detail));
        };
        if let Err(error) = message.verify(Kind::Event, public) {
            return Err((Cause::BadSignature, error.to_string()));
        }
        if envelope.seq == self.seq || envelope.prev != self.tip {
            let Self { epoch, seq, tip, .. } = self;
            let detail = format!("the log has event {tip} at seq {seq} of epoch {epoch}");
            return Err((Cause::Fork, detail));
        }
        let (event, rotated) = to_new_event(envelope, sealed, &kid);
        if let Some(new_key) = rotated {
            self.keys = vec![(new_key.thumbprint(), new_key)];
            self.is_rotated = true;
        }
        (self.seq, self.tip) = (envelope.seq, hash);
        Ok(event)
    }
}

/// The event for the log; unreadable content is appended as such. A valid rotation also returns the
/// key that signs from the next event on.
fn to_new_event(
    envelope: &DeviceEnvelope,
    sealed: &Bytes,
    signed_by: &Hash,
) -> (NewEvent, Option<PublicKey>) {
    match decode_event(envelope, signed_by) {
        Ok((event, rotated)) => (NewEvent::sealed(&event, envelope.time, sealed.clone()), rotated),
        Err(cause) => {
            let unreadable: Event = DeviceEventUnreadable {
                claimed_type: envelope.kind.chars().take(200).collect(),
                claimed_version: envelope.version,
                cause,
                bytes: sealed.to_vec(),
            }
            .into();
            (NewEvent::server(&unreadable, envelope.time), None)
        }
    }
}

fn decode_event(
    envelope: &DeviceEnvelope,
    signed_by: &Hash,
) -> Result<(Event, Option<PublicKey>), String> {
    let event = Event::decode(&envelope.kind, envelope.version, &envelope.data)
        .map_err(|error| error.to_string())?;
    if author(event.kind()) != Some(Author::Device) {
        return Err(format!("a device must not record events of type {}", event.kind()));
    }
    let rotated = match &event {
        Event::DeviceKeyRotated(rotation) => Some(check_rotation(envelope, rotation, signed_by)?),
        _ => None,
    };
    Ok((event, rotated))
}

/// Verifies a rotation: the new key must have signed this device, epoch and old key.
fn check_rotation(
    envelope: &DeviceEnvelope,
    rotation: &DeviceKeyRotated,
    signed_by: &Hash,
) -> Result<PublicKey, String> {
    let key = PublicKey::from_cose_key(&rotation.signing_key).map_err(|error| error.to_string())?;
    let agreed = cose::open(&rotation.proof, Kind::Rotation, &key)
        .map_err(|error| format!("the signature of the new key is invalid: {error}"))?;
    if agreed == codec::encode(&(envelope.device, envelope.epoch, signed_by)) {
        Ok(key)
    } else {
        Err("the signature of the new key is for another rotation".to_owned())
    }
}

#[cfg(test)]
mod tests;
