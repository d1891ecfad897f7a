//! The steps that a device and its server can take, one at a time.

use std::time::{Duration, Instant};

use muster_schemas::Timestamp;
use proptest::prelude::*;

use super::device::Device;
use super::server::Server;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Record(u8),
    Send,
    /// Delivers one message to the server: which one, and whether a copy stays in the network.
    Deliver {
        index: prop::sample::Index,
        is_repeated: bool,
    },
    LoseUp(prop::sample::Index),
    Receive,
    LoseDown,
    Hello {
        is_lost: bool,
    },
    Reconnect,
    Crash,
    Wait,
    Prune,
    Restore(prop::sample::Index),
}

pub(super) fn steps(with_restores: bool) -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (1..6_u8).prop_map(Step::Record),
        6 => Just(Step::Send),
        8 => (index(), any::<bool>())
            .prop_map(|(index, is_repeated)| Step::Deliver { index, is_repeated }),
        2 => index().prop_map(Step::LoseUp),
        6 => Just(Step::Receive),
        2 => Just(Step::LoseDown),
        3 => prop::bool::weighted(0.3).prop_map(|is_lost| Step::Hello { is_lost }),
        1 => Just(Step::Reconnect),
        2 => Just(Step::Crash),
        2 => Just(Step::Wait),
        2 => Just(Step::Prune),
        1 => index().prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..80).prop_map(move |mut steps| {
        steps.retain(|step| with_restores || !matches!(step, Step::Restore(_)));
        steps
    })
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Instant,
    pub(super) number: u64,
    pub(super) has_restored: bool,
}

impl World {
    pub(super) fn new() -> Self {
        Self { server: Server::new(), now: Instant::now(), number: 0, has_restored: false }
    }

    pub(super) fn step(&mut self, mut device: Device, step: &Step) -> Device {
        self.now += Duration::from_millis(100);
        let now = self.now;
        match step {
            Step::Record(count) => {
                for _ in 0..*count {
                    self.number += 1;
                    device.record(self.number);
                }
            }
            Step::Send => device.send(now),
            Step::Deliver { index, is_repeated } if !device.up.is_empty() => {
                let index = index.index(device.up.len());
                let message =
                    if *is_repeated { device.up[index].clone() } else { device.up.remove(index) };
                device.down.extend(self.server.receive(&message.bytes));
            }
            Step::LoseUp(index) if !device.up.is_empty() => {
                device.up.swap_remove(index.index(device.up.len()));
            }
            Step::Receive => device.receive(now),
            Step::LoseDown => device.down.clear(),
            Step::Hello { is_lost } => device.hello(&mut self.server, now, *is_lost),
            Step::Reconnect => device.session.connected(now),
            Step::Crash => device = device.crash(now),
            Step::Wait => self.now += Duration::from_secs(20),
            Step::Prune => while device.outbox.prune(Timestamp(0)).unwrap() {},
            Step::Restore(index) => {
                // Every backup contains the enrollment. The messages in the broker are lost, too.
                let keep = 1 + index.index(self.server.log.len());
                self.server.log.truncate(keep);
                device.up.clear();
                device.down.clear();
                self.has_restored = true;
            }
            Step::Deliver { .. } | Step::LoseUp(_) => {}
        }
        device
    }

    /// Runs without failures until the log has all events of the outboxes.
    pub(super) fn run_until_synced(&mut self, devices: &mut [Device]) {
        for device in devices.iter_mut() {
            device.session.connected(self.now);
        }
        let mut calm = 0;
        for _ in 0..400 {
            let is_done = |device: &Device| {
                let view = device.outbox.view();
                view.unconfirmed() == 0 && !view.is_waiting_for_epoch
            };
            // Longer than the time after which a suspected loss is certain.
            calm = if devices.iter().all(is_done) { calm + 1 } else { 0 };
            if calm > 14 {
                break;
            }
            self.now += Duration::from_millis(500);
            for index in 0..devices.len() {
                devices[index].hello(&mut self.server, self.now, false);
                devices[index].send(self.now);
                for message in std::mem::take(&mut devices[index].up) {
                    // Acks reach every device that holds the keys.
                    if let Some(ack) = self.server.receive(&message.bytes) {
                        for device in devices.iter_mut() {
                            device.down.push(ack);
                        }
                    }
                }
                for device in devices.iter_mut() {
                    device.receive(self.now);
                }
            }
        }
        for device in devices.iter() {
            let view = device.outbox.view();
            assert_eq!((view.unconfirmed(), view.is_waiting_for_epoch), (0, false), "{view:?}");
        }
    }
}
