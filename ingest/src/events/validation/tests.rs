//! Every kind of message that a device, or another client, can send.

use muster_eventlog::DeviceEpoch;
use muster_schemas::events::{DeviceConfigApplied, DeviceDeleted};
use muster_schemas::{ConfigVersion, Epoch, Seq, SigningKey, Timestamp};
use uuid::Uuid;

use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn device(n: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(n))
}

fn event(version: u64) -> Event {
    DeviceConfigApplied { version: ConfigVersion(version), errors: BTreeMap::new() }.into()
}

fn envelope(seq: Seq, prev: Hash, event: &Event) -> DeviceEnvelope {
    DeviceEnvelope {
        project: ProjectId::default_project(),
        device: device(1),
        epoch: Epoch(1),
        seq,
        prev,
        boot: Uuid::nil(),
        mono: 0,
        time: Timestamp(0),
        kind: event.kind().into(),
        version: event.version(),
        data: event.encode(),
    }
}

/// Seals a chain of events after `prev`, starting at `seq`.
fn chain(from: u64, mut prev: Hash, events: u64) -> Vec<Bytes> {
    let mut sealed = Vec::new();
    for seq in from..from + events {
        let bytes = envelope(Seq(seq), prev, &event(seq)).seal(&key(1));
        prev = Hash::of(&bytes);
        sealed.push(bytes.into());
    }
    sealed
}

fn access(seq: Seq, tip: Hash) -> DeviceAccess {
    DeviceAccess {
        keys: vec![(key(1).thumbprint(), key(1).public())],
        epochs: vec![DeviceEpoch { epoch: Epoch(1), seq, tip, is_closed: false }],
    }
}

fn inbound(bytes: &Bytes) -> InboundMessage {
    let subject = format!("evt.3.default.{}", device(1));
    InboundMessage { subject, bytes: bytes.clone(), is_repeated: false }
}

/// The result: the number of appended events, the ack, the causes of rejections.
fn outcome(
    access: &DeviceAccess,
    messages: &[Bytes],
) -> (usize, Option<(Seq, bool)>, Vec<&'static str>) {
    let (attributed, mut rejected) = group_by_device(messages.iter().map(inbound).collect());
    let mut appended = 0;
    let mut ack = None;
    for (key, attributed) in attributed {
        if let Some(chain) = validate(key, attributed, access, &mut rejected) {
            appended += chain.append.map_or(0, |append| append.streams[0].events.len());
            ack = Some((chain.ack.seq, chain.ack.resend));
        }
    }
    (appended, ack, rejected.iter().map(|rejected| rejected.cause.as_str()).collect())
}

#[test]
fn validation_orders_events_drops_duplicates_and_stops_at_gaps() {
    let events = chain(1, Hash::ZERO, 4);
    let start = access(Seq::ZERO, Hash::ZERO);
    let mut shuffled = vec![events[2].clone(), events[0].clone(), events[1].clone()];
    shuffled.push(events[1].clone());
    assert_eq!(outcome(&start, &shuffled), (3, Some((Seq(3), false)), vec![]));
    assert_eq!(outcome(&start, &events[1..]), (0, Some((Seq(0), true)), vec![]));
    let gap = [events[0].clone(), events[2].clone(), events[3].clone()];
    assert_eq!(outcome(&start, &gap), (1, Some((Seq(1), true)), vec![]));
    let done = access(Seq(4), Hash::of(&events[3]));
    assert_eq!(outcome(&done, &events), (0, Some((Seq(4), false)), vec![]));
}

#[test]
fn a_message_that_cannot_be_attributed_is_rejected_and_later_ones_are_accepted() {
    let events = chain(1, Hash::ZERO, 2);
    let start = access(Seq::ZERO, Hash::ZERO);
    let forged: Bytes = envelope(Seq(1), Hash::ZERO, &event(1)).seal(&key(2)).into();
    let mut bent = events[0].to_vec();
    *bent.last_mut().unwrap() ^= 1;
    let bad = [Bytes::from_static(b"garbage"), Bytes::new(), forged, bent.into()];
    let (appended, ack, causes) = outcome(&start, &[&bad[..], &events[..]].concat());
    assert_eq!((appended, ack), (2, Some((Seq(2), false))));
    assert_eq!(causes, ["no_envelope", "no_envelope", "unknown_key", "bad_signature"]);
}

#[test]
fn a_foreign_subject_and_an_unknown_or_closed_epoch_are_rejected() {
    let mut foreign = envelope(Seq(1), Hash::ZERO, &event(1));
    foreign.device = device(2);
    let foreign: Bytes = foreign.seal(&key(1)).into();
    assert_eq!(outcome(&access(Seq::ZERO, Hash::ZERO), &[foreign]).2, ["foreign_subject"]);

    let mut other = envelope(Seq(1), Hash::ZERO, &event(1));
    other.epoch = Epoch(7);
    let other: Bytes = other.seal(&key(1)).into();
    assert_eq!(outcome(&access(Seq::ZERO, Hash::ZERO), &[other]).2, ["unknown_device"]);

    let mut closed = access(Seq::ZERO, Hash::ZERO);
    closed.epochs[0].is_closed = true;
    assert_eq!(outcome(&closed, &chain(1, Hash::ZERO, 1)).2, ["closed_epoch"]);
}

#[test]
fn a_fork_is_detected_at_the_same_and_at_the_next_sequence_number() {
    let ours = chain(1, Hash::ZERO, 2);
    let log = access(Seq(2), Hash::of(&ours[1]));
    let theirs = chain(2, Hash::of(b"another"), 2);
    assert_eq!(outcome(&log, &theirs), (0, Some((Seq(2), false)), vec!["fork", "fork"]));
}

#[test]
fn any_event_that_a_device_signs_is_appended() {
    let deleted: Event = DeviceDeleted { name: "x".parse().unwrap() }.into();
    let mut unknown = envelope(Seq(1), Hash::ZERO, &event(1));
    unknown.kind = "DeviceDanced".into();
    let mut garbage = envelope(Seq(1), Hash::ZERO, &event(1));
    garbage.data = vec![0xff; 100];
    let mut newer = envelope(Seq(1), Hash::ZERO, &event(1));
    newer.version = 99;
    let mut early = envelope(Seq(1), Hash::ZERO, &event(1));
    early.time = Timestamp(i64::MIN);
    for (odd, kind) in [
        (envelope(Seq(1), Hash::ZERO, &deleted), "DeviceEventUnreadable"),
        (unknown, "DeviceEventUnreadable"),
        (garbage, "DeviceEventUnreadable"),
        (newer, "DeviceEventUnreadable"),
        (early, "DeviceConfigApplied"),
    ] {
        let sealed: Bytes = odd.seal(&key(1)).into();
        let (attributed, mut rejected) = group_by_device(vec![inbound(&sealed)]);
        let (key, attributed) = attributed.into_iter().next().unwrap();
        let chain =
            validate(key, attributed, &access(Seq::ZERO, Hash::ZERO), &mut rejected).unwrap();
        let events = &chain.append.unwrap().streams[0].events;
        assert!(format!("{:?}", events[0]).contains(kind), "{:?}", events[0]);
    }
}

#[test]
fn after_a_rotation_only_the_new_key_is_valid() {
    let rotation = |agreed_by: &SigningKey| -> Event {
        let statement = codec::encode(&(device(1), 1_u64, key(1).thumbprint()));
        DeviceKeyRotated {
            signing_key: key(9).public().to_cose_key(),
            proof: agreed_by.seal(Kind::Rotation, statement),
        }
        .into()
    };
    let after = |first: &Bytes, signer: &SigningKey| -> Bytes {
        envelope(Seq(2), Hash::of(first), &event(2)).seal(signer).into()
    };
    let good: Bytes = envelope(Seq(1), Hash::ZERO, &rotation(&key(9))).seal(&key(1)).into();
    let start = access(Seq::ZERO, Hash::ZERO);
    assert_eq!(outcome(&start, &[good.clone(), after(&good, &key(9))]).0, 2);
    assert_eq!(outcome(&start, &[good.clone(), after(&good, &key(1))]).2, ["unknown_key"]);
    // Without the new key's proof it is stored as unreadable, and the old key stays valid.
    let bad: Bytes = envelope(Seq(1), Hash::ZERO, &rotation(&key(8))).seal(&key(1)).into();
    assert_eq!(outcome(&start, &[bad.clone(), after(&bad, &key(1))]).0, 2);
}
