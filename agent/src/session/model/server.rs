//! The log of one device, by the minimum of rules that a server must follow.

use muster_schemas::envelope::parse_sealed;
use muster_schemas::events::LossCause;
use muster_schemas::wire::{Ack, Hello, Welcome};
use muster_schemas::{ConfigVersion, Epoch, Event, Hash, Seq, Timestamp};
use uuid::Uuid;

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Grant { epoch: Epoch, request: Option<Uuid> },
    Event { epoch: Epoch, seq: Seq, hash: Hash, event: Box<Event>, time: Timestamp },
}

/// The log of one device, and the state that follows from it.
pub(super) struct Server {
    pub(super) log: Vec<Entry>,
    /// What its welcomes report.
    pub(super) is_caught_up: Option<bool>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self { log: vec![Entry::Grant { epoch: Epoch::FIRST, request: None }], is_caught_up: None }
    }

    pub(super) fn epochs(&self) -> Vec<Epoch> {
        let epochs = self.log.iter().filter_map(|entry| match entry {
            Entry::Grant { epoch, .. } => Some(*epoch),
            Entry::Event { .. } => None,
        });
        epochs.collect()
    }

    pub(super) fn watermark(&self, requested: Epoch) -> (Seq, Hash) {
        let newest = self.log.iter().rev().find_map(|entry| match entry {
            Entry::Event { epoch, seq, hash, .. } if *epoch == requested => Some((*seq, *hash)),
            _ => None,
        });
        newest.unwrap_or((Seq::ZERO, Hash::ZERO))
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) -> Option<Ack> {
        // `outbox::tests` checks the signature: here it would take most of the time.
        let (_, envelope) = parse_sealed(bytes).unwrap();
        if !self.epochs().contains(&envelope.epoch) {
            return None;
        }
        let (seq, hash) = self.watermark(envelope.epoch);
        let mut ack = Ack { epoch: envelope.epoch, seq, hash, resend: envelope.seq > seq + 1 };
        if envelope.seq == seq + 1 && envelope.prev == hash {
            let hash = Hash::of(bytes);
            let event = Event::decode(&envelope.kind, envelope.version, &envelope.data).unwrap();
            let (epoch, seq) = (envelope.epoch, envelope.seq);
            let time = envelope.time;
            self.log.push(Entry::Event { epoch, seq, hash, event: Box::new(event), time });
            (ack.seq, ack.hash) = (seq, hash);
        }
        Some(ack)
    }

    pub(super) fn welcome(&mut self, hello: &Hello) -> Welcome {
        let mut epoch = hello.epoch;
        if let Some(ask) = &hello.new_epoch {
            let given = self.log.iter().find_map(|entry| match entry {
                Entry::Grant { epoch, request } if *request == Some(ask.request) => Some(*epoch),
                _ => None,
            });
            epoch = given.unwrap_or_else(|| {
                let newest = self.epochs().into_iter().max().unwrap_or(Epoch::ZERO);
                let epoch = newest.max(hello.epoch) + 1;
                self.log.push(Entry::Grant { epoch, request: Some(ask.request) });
                epoch
            });
        } else if !self.epochs().contains(&epoch) {
            epoch = self.epochs().into_iter().max().unwrap_or(Epoch::ZERO);
        }
        let (committed_seq, committed_hash) = self.watermark(epoch);
        Welcome {
            project: hello.project.clone(),
            device: hello.device,
            epoch,
            nonce: hello.nonce,
            time: Timestamp(0),
            committed_seq,
            committed_hash,
            config_version: ConfigVersion::ZERO,
            config: std::collections::BTreeMap::new(),
            sealed_config: None,
            is_caught_up: self.is_caught_up,
        }
    }

    /// The events in the log, by the numbers that the test gave them.
    pub(super) fn event_numbers(&self) -> Vec<u64> {
        let events = self.log.iter().filter_map(|entry| match entry {
            Entry::Event { event, time, .. } => match &**event {
                Event::DeviceConfigApplied(event) => {
                    assert_eq!(time.micros() as u64, event.version.get(), "its time is its own");
                    Some(event.version.get())
                }
                _ => None,
            },
            Entry::Grant { .. } => None,
        });
        events.collect()
    }

    /// Number of events that are declared lost for this cause.
    pub(super) fn lost(&self, requested: LossCause) -> u64 {
        let counts = self.log.iter().filter_map(|entry| match entry {
            Entry::Event { event, .. } => match &**event {
                Event::DeviceHistoryLost(lost) if lost.cause == requested => lost.count,
                _ => None,
            },
            Entry::Grant { .. } => None,
        });
        counts.sum()
    }
}
