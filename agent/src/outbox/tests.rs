//! Tests of the outbox alone: what it stores, what it prunes, and what it reports when it is full.

use std::path::Path;
use std::sync::Arc;

use muster_schemas::cose::{self, Kind};
use muster_schemas::events::{DeviceConfigApplied, LossCause};
use muster_schemas::{
    ConfigVersion, DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey,
    Timestamp,
};
use uuid::Uuid;

use super::*;
use crate::clock::Moment;
use crate::store::Folder;

const HOUR: i64 = 3600 * 1_000_000;

pub(crate) fn outbox(dir: &Path, limits: Limits) -> Outbox {
    let store = Arc::new(Store::open(Folder::open(dir).unwrap()).unwrap());
    let (project, device) = (ProjectId::default_project(), DeviceId(Uuid::from_u128(1)));
    Outbox::open(store, SigningKey::from_seed(&[1; 32]), project, device, Epoch(3), limits).unwrap()
}

fn event(version: u64) -> Event {
    DeviceConfigApplied { version: ConfigVersion(version), errors: Default::default() }.into()
}

fn at(time: i64) -> Moment {
    Moment { boot: Uuid::from_u128(2), mono: 5, wall: Timestamp(time) }
}

impl Outbox {
    /// Simulates a disk that changes a byte of an event, or loses the event.
    pub(crate) fn damage(&self, seq: Seq, is_lost: bool) {
        let position = (self.view().epoch, seq);
        let mut bytes = self.stored(position.0, position.1).unwrap().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        let changed = self.store.write(|transaction| {
            let mut events = transaction.open_table(EVENTS).unwrap();
            if is_lost {
                events.remove(event_key(position)).unwrap();
            } else {
                events.insert(event_key(position), bytes.as_slice()).unwrap();
            }
            Ok(())
        });
        changed.unwrap();
    }
}

#[test]
fn events_are_chained_signed_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let outbox = outbox(dir.path(), Limits::default());
        for number in 1..=3 {
            assert_eq!(outbox.record(&event(number), at(7)).unwrap(), Seq(round * 3 + number));
        }
    }
    let outbox = outbox(dir.path(), Limits::default());
    let mut prev = Hash::ZERO;
    for seq in (1..=6).map(Seq) {
        let bytes = outbox.sealed(seq).unwrap().unwrap();
        let key = SigningKey::from_seed(&[1; 32]).public();
        let payload = cose::open(&bytes, Kind::Event, &key).unwrap();
        let envelope: DeviceEnvelope = muster_schemas::codec::decode(&payload).unwrap();
        assert_eq!((envelope.epoch, envelope.seq, envelope.prev), (Epoch(3), seq, prev));
        assert_eq!((envelope.boot, envelope.mono, envelope.time.micros()), (at(7).boot, 5, 7));
        prev = Hash::of(&bytes);
        assert_eq!(outbox.hash_at(Epoch(3), seq).unwrap(), Some(prev));
    }
    assert_eq!(outbox.sealed(Seq(7)).unwrap(), None);
    assert_eq!(outbox.hash_at(Epoch(3), Seq::ZERO).unwrap(), Some(Hash::ZERO));
}

#[test]
fn confirmed_events_are_kept_by_age_and_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let limits =
        Limits { kept_for: Duration::from_secs(10 * 3600), kept_bytes: 3000, ..Limits::default() };
    let outbox = outbox(dir.path(), limits);
    for number in 1..=30 {
        outbox.record(&event(number), at(0)).unwrap();
    }
    let held = || (1..=30).filter(|seq| outbox.holds(Seq(*seq)).unwrap()).collect::<Vec<_>>();
    outbox.prune(Timestamp(1000 * HOUR)).unwrap();
    assert_eq!(held().len(), 30, "nothing is let go before the log has it");
    outbox.confirm(Seq(2), Timestamp(HOUR)).unwrap();
    outbox.confirm(Seq(4), Timestamp(5 * HOUR)).unwrap();
    for (now, first) in [(11 * HOUR, 1), (13 * HOUR, 3), (14 * HOUR, 3), (17 * HOUR, 5)] {
        outbox.prune(Timestamp(now)).unwrap();
        assert_eq!(held().first(), Some(&first), "at {} h", now / HOUR);
    }
    // The log can still distinguish the events: each names the hash of its predecessor.
    assert!(outbox.hash_at(Epoch(3), Seq(4)).unwrap().is_some());
    assert_eq!(outbox.hash_at(Epoch(3), Seq(3)).unwrap(), None);
    outbox.confirm(Seq(30), Timestamp(18 * HOUR)).unwrap();
    outbox.prune(Timestamp(18 * HOUR)).unwrap();
    let bytes: usize =
        held().iter().map(|seq| outbox.sealed(Seq(*seq)).unwrap().unwrap().len()).sum();
    assert!((1500..=3000).contains(&bytes), "{bytes} bytes are kept");
    assert_eq!(held().last(), Some(&30));
}

#[test]
fn a_full_outbox_counts_dropped_events_and_records_them_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { unconfirmed_bytes: 2000, ..Limits::default() };
    let full = outbox(dir.path(), limits);
    let mut recorded = 0;
    for time in 1..=20 {
        match full.record(&event(1), at(time)) {
            Ok(seq) => recorded = seq.get(),
            Err(error) => assert!(matches!(error, RecordError::Full { .. }), "{error}"),
        }
    }
    assert!((4..=8).contains(&recorded));
    assert_eq!(full.view().dropped, 20 - recorded);
    drop(full);
    let outbox = outbox(dir.path(), limits);
    assert_eq!(outbox.view().dropped, 20 - recorded, "the count outlives the process");
    outbox.record_dropped(at(50)).unwrap();
    assert_eq!(outbox.view().last_seq, Seq(recorded), "there is no room yet");
    outbox.confirm(Seq(recorded), Timestamp(0)).unwrap();
    outbox.record_dropped(at(50)).unwrap();
    let envelope = envelope::open(&outbox.sealed(Seq(recorded + 1)).unwrap().unwrap()).unwrap();
    let decoded = Event::decode(&envelope.kind, envelope.version, &envelope.data).unwrap();
    let Event::DeviceHistoryLost(lost) = decoded else { panic!("{decoded:?}") };
    assert_eq!((lost.cause, lost.count), (LossCause::OutboxFull, Some(20 - recorded)));
    assert_eq!(lost.last_time, Some(Timestamp(20)));
    assert_eq!(outbox.view().dropped, 0);
}

#[test]
fn an_event_that_the_log_would_reject_is_rejected_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path(), Limits::default());
    let errors = [("k".to_owned(), "x".repeat(70_000))].into();
    let large = DeviceConfigApplied { version: ConfigVersion(1), errors }.into();
    let error = outbox.record(&large, at(0)).unwrap_err();
    assert!(matches!(error, RecordError::TooLarge { .. }), "{error}");
    assert_eq!((outbox.view().last_seq, outbox.view().dropped), (Seq::ZERO, 0));
}

#[test]
fn the_log_head_is_compared_by_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path(), Limits { kept_bytes: 0, ..Limits::default() });
    for number in 1..=6 {
        outbox.record(&event(number), at(0)).unwrap();
    }
    let hash = |seq| outbox.hash_at(Epoch(3), seq).unwrap().unwrap();
    let hashes: Vec<Hash> = (0..=6).map(Seq).map(hash).collect();
    outbox.confirm(Seq(4), Timestamp(0)).unwrap();
    let other = Hash::of(b"other");
    let check = |cases: &[(u64, u64, Hash, Verdict)]| {
        for (epoch, seq, hash, expected) in cases {
            assert_eq!(
                compare_head(&outbox, Epoch(*epoch), Seq(*seq), *hash).unwrap(),
                *expected,
                "{epoch}/{seq}"
            );
        }
    };
    check(&[
        (2, 9, other, Verdict::OlderEpoch),
        (4, 9, other, Verdict::NewerEpoch),
        (3, 4, hashes[4], Verdict::Expected),
        (3, 6, hashes[6], Verdict::Confirmed),
        (3, 2, hashes[2], Verdict::Behind),
        (3, 0, Hash::ZERO, Verdict::Behind),
        (3, 7, other, Verdict::Fork { own: None }),
        (3, 5, other, Verdict::Fork { own: Some(hashes[5]) }),
        (3, 0, other, Verdict::Fork { own: Some(Hash::ZERO) }),
    ]);
    while outbox.prune(Timestamp(0)).unwrap() {}
    check(&[
        (3, 4, hashes[4], Verdict::Expected),
        (3, 4, other, Verdict::Fork { own: Some(hashes[4]) }),
        (3, 2, hashes[2], Verdict::Pruned),
        (3, 0, Hash::ZERO, Verdict::Pruned),
    ]);
}
