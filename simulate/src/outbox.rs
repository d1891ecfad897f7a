//! A simulated device's outbox: the events that the log does not have, in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use muster_schemas::{
    DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey, Timestamp,
};
use uuid::Uuid;

use crate::chain::Sealed;

/// The effect of an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// This many further events are in the log.
    New(u64),
    /// The log has another event at this position. This must never happen, unless two devices have
    /// the same key.
    Differs,
    /// The log has fewer events than it had confirmed: it was restored.
    Behind,
}

/// The events of one epoch that the log does not have.
#[derive(Debug)]
pub(crate) struct Outbox {
    project: ProjectId,
    device: DeviceId,
    epoch: Epoch,
    key: SigningKey,
    boot: Uuid,
    tip: Hash,
    confirmed: Seq,
    pending: VecDeque<Sealed>,
}

impl Outbox {
    pub(crate) fn new(project: ProjectId, device: DeviceId, epoch: Epoch, key: SigningKey) -> Self {
        Self {
            project,
            device,
            epoch,
            key,
            boot: Uuid::new_v4(),
            tip: Hash::ZERO,
            confirmed: Seq::ZERO,
            pending: VecDeque::new(),
        }
    }

    pub(crate) fn last_seq(&self) -> Seq {
        self.confirmed + self.pending.len() as u64
    }

    /// Seals an event as the next one.
    pub(crate) fn record(&mut self, event: &Event, time: Timestamp, mono: u64) -> Bytes {
        let envelope = DeviceEnvelope {
            project: self.project.clone(),
            device: self.device,
            epoch: self.epoch,
            seq: self.last_seq().next(),
            prev: self.tip,
            boot: self.boot,
            mono,
            time,
            kind: event.kind().to_owned(),
            version: event.version(),
            data: event.encode(),
        };
        let bytes: Bytes = envelope.seal(&self.key).into();
        let sealed = Sealed { seq: envelope.seq, hash: Hash::of(&bytes), bytes: bytes.clone() };
        self.tip = sealed.hash;
        self.pending.push_back(sealed);
        bytes
    }

    /// Handles an ack: the log has everything up to `seq`, and this hash there.
    pub(crate) fn confirm(&mut self, seq: Seq, hash: Hash) -> Confirmed {
        if seq < self.confirmed {
            return Confirmed::Behind;
        }
        let new = seq.since(self.confirmed);
        let count = usize::try_from(new).unwrap_or(usize::MAX);
        let newest = count.checked_sub(1).map(|index| self.pending.get(index));
        if newest.is_some_and(|newest| newest.is_none_or(|newest| newest.hash != hash)) {
            return Confirmed::Differs;
        }
        self.pending.drain(..count);
        self.confirmed = seq;
        Confirmed::New(new)
    }

    /// Returns the events that the log does not have, in order.
    pub(crate) fn pending(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.pending.iter().map(|sealed| sealed.bytes.clone())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::ConfigVersion;
    use muster_schemas::events::DeviceConfigApplied;

    use super::*;

    #[test]
    fn only_logged_events_are_removed() {
        let key = SigningKey::from_seed(&[1; 32]);
        let device = DeviceId(Uuid::from_u128(7));
        let mut outbox = Outbox::new(ProjectId::default_project(), device, Epoch::FIRST, key);
        let event =
            DeviceConfigApplied { version: ConfigVersion::FIRST, errors: Default::default() }
                .into();
        let sealed: Vec<Bytes> =
            (0..3).map(|n| outbox.record(&event, Timestamp::default(), n)).collect();
        let second = Hash::of(&sealed[1]);
        assert_eq!(outbox.confirm(Seq(2), Hash::of(b"another")), Confirmed::Differs);
        assert_eq!(outbox.confirm(Seq(2), second), Confirmed::New(2));
        assert_eq!(outbox.pending().collect::<Vec<_>>(), sealed[2..]);
        assert_eq!(outbox.confirm(Seq(2), second), Confirmed::New(0));
        assert_eq!(outbox.confirm(Seq::FIRST, second), Confirmed::Behind);
        assert_eq!(outbox.confirm(Seq(9), second), Confirmed::Differs);
        assert_eq!((outbox.last_seq(), outbox.is_empty()), (Seq(3), false));
    }
}
