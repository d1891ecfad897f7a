//! The conversation put through drops, repetitions, reorderings, crashes, restores and clones,
//! against a small model of the server's rule: an event is appended iff its epoch is known, its
//! seq is the next one and it names the newest one's hash.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_schemas::envelope::parse_sealed;
use muster_schemas::events::{DeviceConfigApplied, LossCause};
use muster_schemas::wire::{Ack, Hello, Welcome};
use muster_schemas::{DeviceId, Event, Hash, ProjectId, SigningKey, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::clock::Moment;
use crate::outbox::{Limits, Outbox};
use crate::store::{Folder, Store};

const SEED: [u8; 32] = [7; 32];

fn device() -> DeviceId {
    DeviceId(Uuid::from_u128(1))
}

#[derive(Clone, Debug)]
enum Entry {
    Grant { epoch: u64, request: Option<Uuid> },
    Event { epoch: u64, seq: u64, hash: Hash, event: Box<Event>, time: Timestamp },
}

/// The log of one device, and what follows from it.
struct Server {
    log: Vec<Entry>,
}

impl Server {
    fn new() -> Self {
        Self { log: vec![Entry::Grant { epoch: 1, request: None }] }
    }

    fn epochs(&self) -> Vec<u64> {
        let epochs = self.log.iter().filter_map(|entry| match entry {
            Entry::Grant { epoch, .. } => Some(*epoch),
            Entry::Event { .. } => None,
        });
        epochs.collect()
    }

    fn watermark(&self, wanted: u64) -> (u64, Hash) {
        let newest = self.log.iter().rev().find_map(|entry| match entry {
            Entry::Event { epoch, seq, hash, .. } if *epoch == wanted => Some((*seq, *hash)),
            _ => None,
        });
        newest.unwrap_or((0, Hash::ZERO))
    }

    fn take(&mut self, bytes: &[u8]) -> Option<Ack> {
        // The signature is checked in `outbox::tests`: here it would take most of the time.
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

    fn welcome(&mut self, hello: &Hello) -> Welcome {
        let mut epoch = hello.epoch;
        if let Some(ask) = &hello.new_epoch {
            let given = self.log.iter().find_map(|entry| match entry {
                Entry::Grant { epoch, request } if *request == Some(ask.request) => Some(*epoch),
                _ => None,
            });
            epoch = given.unwrap_or_else(|| {
                let newest = self.epochs().into_iter().max().unwrap_or(0);
                let epoch = newest.max(hello.epoch) + 1;
                self.log.push(Entry::Grant { epoch, request: Some(ask.request) });
                epoch
            });
        } else if !self.epochs().contains(&epoch) {
            epoch = self.epochs().into_iter().max().unwrap_or(0);
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
            config_version: 0,
            config: std::collections::BTreeMap::new(),
        }
    }

    /// What the log says happened, by the number that the test gave each event.
    fn told(&self) -> Vec<u64> {
        let events = self.log.iter().filter_map(|entry| match entry {
            Entry::Event { event, time, .. } => match &**event {
                Event::DeviceConfigApplied(event) => {
                    assert_eq!(time.micros() as u64, event.version, "its time is its own");
                    Some(event.version)
                }
                _ => None,
            },
            Entry::Grant { .. } => None,
        });
        events.collect()
    }

    /// How many events are declared lost, for this cause.
    fn lost(&self, wanted: LossCause) -> u64 {
        let counts = self.log.iter().filter_map(|entry| match entry {
            Entry::Event { event, .. } => match &**event {
                Event::DeviceHistoryLost(lost) if lost.cause == wanted => lost.count,
                _ => None,
            },
            Entry::Grant { .. } => None,
        });
        counts.sum()
    }
}

/// A device with its disk, and the network between it and the server.
struct Device {
    dir: PathBuf,
    limits: Limits,
    outbox: Arc<Outbox>,
    session: Session,
    up: Vec<Outgoing>,
    down: Vec<Ack>,
    recorded: Vec<u64>,
}

impl Device {
    fn open(dir: &Path, limits: Limits) -> (Arc<Outbox>, Session) {
        let store = Arc::new(Store::open(Folder::open(dir).unwrap()).unwrap());
        let project = ProjectId::default_project();
        let key = SigningKey::from_seed(&SEED);
        let outbox =
            Arc::new(Outbox::open(store, key, project.clone(), device(), 1, limits).unwrap());
        let session = Session::new(Arc::clone(&outbox), project, device());
        (outbox, session)
    }

    fn new(dir: &Path, limits: Limits) -> Self {
        let (outbox, session) = Self::open(dir, limits);
        let dir = dir.to_owned();
        Self { dir, limits, outbox, session, up: vec![], down: vec![], recorded: vec![] }
    }

    /// The process dies, and another one starts on the same disk.
    fn crash(self, now: Instant) -> Self {
        let Self { dir, limits, recorded, outbox, session, .. } = self;
        drop((outbox, session));
        let mut device = Self { recorded, ..Self::new(&dir, limits) };
        device.session.connected(now);
        device
    }

    fn record(&mut self, number: u64) {
        let event = DeviceConfigApplied { version: number, errors: Default::default() }.into();
        if self.outbox.record(&event, moment(number)).is_ok() {
            self.recorded.push(number);
        }
    }

    fn send(&mut self, now: Instant) {
        self.session.tick(now, 0.5);
        while let Some(outgoing) = self.session.next_event(now).unwrap() {
            self.session.settled(outgoing.epoch, outgoing.seq, true, now, 0.5);
            self.up.push(outgoing);
        }
    }

    fn hello(&mut self, server: &mut Server, now: Instant, is_lost: bool) {
        let nonce = Uuid::new_v4();
        let Some(hello) = self.session.next_hello(now, &moment(0), 0, nonce) else { return };
        let welcome = server.welcome(&hello);
        if is_lost {
            self.session.hello_failed(now, 0.5);
        } else {
            let request = Uuid::new_v4();
            self.session.on_welcome(&welcome, now, moment(0), request, 0.5).ok();
        }
    }

    fn receive(&mut self, now: Instant) {
        for ack in std::mem::take(&mut self.down) {
            self.session.on_ack(&ack, now, Timestamp(0)).unwrap();
        }
        self.outbox.settle_dropped(moment(0)).unwrap();
    }
}

fn moment(number: u64) -> Moment {
    Moment { boot: Uuid::from_u128(9), mono: number, wall: Timestamp(number as i64) }
}

#[derive(Clone, Debug)]
enum Step {
    Record(u8),
    Send,
    /// Which message the server gets next, and whether it stays in the network.
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

fn steps(with_restores: bool) -> impl Strategy<Value = Vec<Step>> {
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

struct World {
    server: Server,
    now: Instant,
    number: u64,
    has_restored: bool,
}

impl World {
    fn new() -> Self {
        Self { server: Server::new(), now: Instant::now(), number: 0, has_restored: false }
    }

    fn step(&mut self, mut device: Device, step: &Step) -> Device {
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
                device.down.extend(self.server.take(&message.bytes));
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
                // The enrollment itself is in every backup; what the broker held is gone too.
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

    /// Everything works from now on: until the log has all that is in the outboxes.
    fn settle(&mut self, devices: &mut [Device]) {
        for device in devices.iter_mut() {
            device.session.connected(self.now);
        }
        let mut calm = 0;
        for _ in 0..400 {
            let is_done = |device: &Device| {
                let view = device.outbox.view();
                view.unconfirmed() == 0 && !view.is_waiting_for_epoch
            };
            // Longer than a suspicion needs to become certain.
            calm = if devices.iter().all(is_done) { calm + 1 } else { 0 };
            if calm > 14 {
                break;
            }
            self.now += Duration::from_millis(500);
            for index in 0..devices.len() {
                devices[index].hello(&mut self.server, self.now, false);
                devices[index].send(self.now);
                for message in std::mem::take(&mut devices[index].up) {
                    // Acks reach every holder of the device's keys.
                    if let Some(ack) = self.server.take(&message.bytes) {
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

fn limits(unconfirmed_bytes: u64, kept_bytes: u64) -> Limits {
    Limits { unconfirmed_bytes, kept_bytes, ..Limits::default() }
}

fn is_subsequence(part: &[u64], whole: &[u64]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|wanted| rest.any(|found| found == wanted))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn everything_recorded_is_in_the_log_once_and_in_order(steps in steps(true)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new();
        let mut device = Device::new(dir.path(), limits(1 << 20, 1 << 20));
        device.session.connected(world.now);
        for step in &steps {
            device = world.step(device, step);
        }
        let mut devices = [device];
        world.settle(&mut devices);
        prop_assert_eq!(world.server.told(), devices[0].recorded.clone());
    }

    #[test]
    fn what_is_missing_in_the_log_is_declared_lost(steps in steps(true)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new();
        // Room for a few events of some 300 bytes.
        let mut device = Device::new(dir.path(), limits(4_000, 2_000));
        device.session.connected(world.now);
        for step in &steps {
            device = world.step(device, step);
        }
        let mut devices = [device];
        world.settle(&mut devices);
        let told = world.server.told();
        let recorded = &devices[0].recorded;
        prop_assert!(is_subsequence(&told, recorded), "{:?} of {:?}", told, recorded);
        if !world.has_restored {
            prop_assert_eq!(&told, recorded);
            let dropped = world.number - recorded.len() as u64;
            prop_assert_eq!(world.server.lost(LossCause::OutboxFull), dropped);
        } else {
            // Declarations of loss can themselves be let go, and are counted when they are.
            let missing = (recorded.len() - told.len()) as u64;
            prop_assert!(world.server.lost(LossCause::Pruned) >= missing);
        }
    }

    #[test]
    fn both_branches_of_a_clone_are_kept(
        before in steps(false),
        first in steps(false),
        second in steps(false),
    ) {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut world = World::new();
        let mut device = Device::new(dir.path(), limits(1 << 20, 1 << 20));
        device.session.connected(world.now);
        for step in &before {
            device = world.step(device, step);
        }
        // The card is copied while the device is off.
        let view = device.outbox.view();
        let common = device.recorded.clone();
        let doubtful = view.unconfirmed();
        let Device { outbox, session, recorded, .. } = device;
        drop((outbox, session));
        std::fs::copy(dir.path().join("agent.redb"), copy.path().join("agent.redb")).unwrap();
        let mut twins = [dir.path(), copy.path()].map(|dir| {
            let mut twin = Device::new(dir, limits(1 << 20, 1 << 20));
            twin.recorded = recorded.clone();
            twin.session.connected(world.now);
            twin
        });
        for (index, steps) in [first, second].iter().enumerate() {
            for step in steps {
                let [one, other] = twins;
                twins = if index == 0 {
                    [world.step(one, step), other]
                } else {
                    [one, world.step(other, step)]
                };
            }
        }
        world.settle(&mut twins);
        let told = world.server.told();
        for twin in &twins {
            let own = &twin.recorded[common.len()..];
            prop_assert!(is_subsequence(own, &told), "{:?} in {:?}", own, told);
            for number in own {
                prop_assert_eq!(told.iter().filter(|told| *told == number).count(), 1);
            }
        }
        // What was on its way when the card was copied may be told by both.
        for (index, number) in common.iter().enumerate() {
            let times = told.iter().filter(|told| *told == number).count();
            let is_certain = index as u64 + doubtful < common.len() as u64;
            prop_assert!(times == 1 || (times == 2 && !is_certain), "{} is told {} times", number, times);
        }
    }
}
