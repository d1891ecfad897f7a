//! The events of a simulated device: sealed once, each linked to its predecessor.

use bytes::Bytes;
use muster_schemas::events::DeviceConfigApplied;
use muster_schemas::{
    ConfigVersion, DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey,
    Timestamp,
};
use uuid::Uuid;

/// A sealed event.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Sequence number.
    pub seq: Seq,
    /// Sealed bytes.
    pub bytes: Bytes,
    /// Hash of the bytes.
    pub hash: Hash,
}

/// A device's chain in one epoch.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// The epoch.
    pub epoch: Epoch,
    /// The signing key.
    pub key: SigningKey,
    /// The events, from seq 1.
    pub events: Vec<Sealed>,
}

impl Chain {
    /// Creates an empty chain.
    #[must_use]
    pub const fn new(project: ProjectId, device: DeviceId, epoch: Epoch, key: SigningKey) -> Self {
        Self { project, device, epoch, key, events: Vec::new() }
    }

    /// Returns the next envelope, for this event.
    #[must_use]
    pub fn next_envelope(&self, event: &Event) -> DeviceEnvelope {
        DeviceEnvelope {
            project: self.project.clone(),
            device: self.device,
            epoch: self.epoch,
            seq: Seq(self.events.len() as u64 + 1),
            prev: self.events.last().map_or(Hash::ZERO, |event| event.hash),
            boot: Uuid::nil(),
            mono: 0,
            time: Timestamp::from(std::time::SystemTime::now()),
            kind: event.kind().to_owned(),
            version: event.version(),
            data: event.encode(),
        }
    }

    /// Seals an envelope as the next event.
    pub fn seal(&mut self, envelope: &DeviceEnvelope) -> Sealed {
        let bytes: Bytes = envelope.seal(&self.key).into();
        let sealed = Sealed { seq: envelope.seq, hash: Hash::of(&bytes), bytes };
        self.events.push(sealed.clone());
        sealed
    }

    /// Records an event.
    pub fn record(&mut self, event: &Event) -> Sealed {
        let envelope = self.next_envelope(event);
        self.seal(&envelope)
    }

    /// Records `count` small events, whose `version` is their sequence number.
    pub fn record_many(&mut self, count: u64) {
        for _ in 0..count {
            let version = ConfigVersion(self.events.len() as u64 + 1);
            self.record(&DeviceConfigApplied { version, errors: Default::default() }.into());
        }
    }
}
