//! Tests of key rotation: which key seals which event, in every interleaving.

use std::path::Path;
use std::sync::Arc;

use muster_schemas::cose::{Kind, PublicKey};
use muster_schemas::envelope::parse_sealed;
use muster_schemas::events::{DeviceConfigApplied, DeviceKeyRotated};
use muster_schemas::{
    ConfigVersion, DeviceId, Epoch, Event, Hash, ProjectId, Seq, Timestamp, codec, cose,
};
use uuid::Uuid;

use super::*;
use crate::clock::Moment;
use crate::identity::{DeviceKeys, Identity};
use crate::store::Folder;

const AT: Moment = Moment { boot: Uuid::from_u128(2), mono: 5, wall: Timestamp(7) };

fn open(dir: &Path) -> Outbox {
    let store = Arc::new(Store::open(Folder::open(dir).unwrap()).unwrap());
    let identity = store.get::<Identity>(key::IDENTITY).unwrap().unwrap_or_else(|| {
        let identity = Identity {
            url: "https://127.0.0.1/".parse().unwrap(),
            project: ProjectId::default_project(),
            device: DeviceId(Uuid::from_u128(1)),
            name: "robot".parse().unwrap(),
            epoch: Epoch(1),
            enrolled_at: Timestamp(0),
            keys: DeviceKeys::generate().unwrap(),
            operation_key: vec![],
            ca: vec![],
        };
        store.put(key::IDENTITY, &identity).unwrap();
        identity
    });
    let Identity { project, device, epoch, keys, .. } = identity;
    Outbox::open(store, keys.signing(), project, device, epoch, Limits::default()).unwrap()
}

fn record(outbox: &Outbox, version: u64) {
    let event =
        DeviceConfigApplied { version: ConfigVersion(version), errors: Default::default() }.into();
    outbox.record(&event, AT).unwrap();
}

/// Processes the events of an epoch like ingest, and returns the key that is valid at the end.
fn verify_events(outbox: &Outbox, mut key: PublicKey) -> PublicKey {
    let view = outbox.view();
    let mut prev = Hash::ZERO;
    for seq in (1..=view.last_seq.get()).map(Seq) {
        let bytes = outbox.sealed(seq).unwrap().unwrap();
        let (message, envelope) = parse_sealed(&bytes).unwrap();
        let signed_by = message.kid();
        assert_eq!(signed_by, key.thumbprint(), "event {seq}");
        message.verify(Kind::Event, &key).unwrap();
        assert_eq!((envelope.seq, envelope.prev), (seq, prev));
        prev = Hash::of(&bytes);
        let event = Event::decode(&envelope.kind, envelope.version, &envelope.data).unwrap();
        if let Event::DeviceKeyRotated(DeviceKeyRotated { signing_key, proof }) = event {
            assert_eq!(envelope.kind, rotation::ROTATED);
            let new = PublicKey::from_cose_key(&signing_key).unwrap();
            let agreed = cose::open(&proof, Kind::Rotation, &new).unwrap();
            assert_eq!(agreed, codec::encode(&(envelope.device, envelope.epoch, signed_by)));
            key = new;
        }
    }
    key
}

fn proving(outbox: &Outbox) -> Vec<Hash> {
    outbox.proving_keys().iter().map(|key| key.public().thumbprint()).collect()
}

#[test]
fn a_rotation_request_is_executed_once_and_only_when_the_log_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path());
    let first = outbox.keys().current().public();
    assert_eq!(proving(&outbox), [first.thumbprint()]);
    record(&outbox, 1);
    assert!(outbox.rotate(5, AT).unwrap());
    assert!(!outbox.rotate(5, AT).unwrap(), "the same request");
    record(&outbox, 2);
    // After a crash here, the device continues with the new key.
    drop(outbox);
    let outbox = open(dir.path());
    let second = verify_events(&outbox, first);
    assert_ne!(second, first);
    assert_eq!(second, outbox.keys().current().public());
    // The log may already have the rotation.
    assert_eq!(proving(&outbox), [first.thumbprint(), second.thumbprint()]);
    assert!(!outbox.rotate(6, AT).unwrap(), "one after the other");
    outbox.confirm(Seq(1), Timestamp(0)).unwrap();
    assert!(!outbox.rotate(6, AT).unwrap());
    outbox.confirm(Seq(2), Timestamp(0)).unwrap();
    assert_eq!(proving(&outbox), [second.thumbprint(), first.thumbprint()]);
    assert!(!outbox.rotate(5, AT).unwrap());
    assert!(outbox.rotate(6, AT).unwrap());
    let third = verify_events(&outbox, first);
    assert_eq!(proving(&outbox), [second.thumbprint(), third.thumbprint()]);
    // A restored log that had neither key.
    outbox.rewind(Seq::ZERO).unwrap();
    assert_eq!(verify_events(&outbox, first), third);
}

#[test]
fn a_new_epoch_starts_with_the_rotation_that_its_log_lacks() {
    for is_known in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        let first = outbox.keys().current().public();
        record(&outbox, 1);
        outbox.rotate(5, AT).unwrap();
        record(&outbox, 2);
        let second = outbox.keys().current().public();
        let by = if is_known { Prover::Current } else { Prover::Previous };
        outbox.request_epoch_after_fork(Seq(1), None, Uuid::from_u128(3)).unwrap();
        assert!(!outbox.rotate(6, AT).unwrap(), "not while an epoch is waited for");
        assert!(outbox.enter_epoch(Epoch(2), AT, by).unwrap());
        let known = if is_known { second } else { first };
        assert_eq!(verify_events(&outbox, known), second);
        let rotations = usize::from(!is_known);
        assert_eq!(outbox.view().last_seq, Seq(2 + rotations as u64));
        assert_eq!(outbox.view().epoch, Epoch(2));
        drop(outbox);
        assert_eq!(verify_events(&open(dir.path()), known), second);
    }
}
