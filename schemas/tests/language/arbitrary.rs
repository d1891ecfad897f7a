//! Arbitrary bytes never panic a decoder; arbitrary values read back.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use muster_schemas::cose::{self, Kind, PublicKey, Unverified};
use muster_schemas::envelope::parse_sealed;
use muster_schemas::metrics::{FieldValue, MetricBatch, MetricName, Point};
use muster_schemas::selector::Selector;
use muster_schemas::wire::{ApiTokenText, EnrollmentTokenText};
use muster_schemas::{
    DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey, StreamName,
    Timestamp, codec, subjects,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::samples::{self, Message};

/// Made once: sealing in a debug build is slow.
static SAMPLES: LazyLock<Vec<samples::Sample>> = LazyLock::new(samples::all);

/// Reads the bytes as everything that they could be.
fn decode_as_everything(bytes: &[u8]) {
    for (kind, newest) in Event::TYPES {
        for version in 0..=newest + 1 {
            let _ = Event::decode(kind, version, bytes);
        }
    }
    for sample in SAMPLES.iter() {
        let _ = Message::decode(sample.name, sample.version, bytes);
    }
    let _ = parse_sealed(bytes);
    let _ = PublicKey::from_cose_key(bytes);
    let _ = codec::decode::<ciborium::Value>(bytes);
    if let Ok(message) = Unverified::parse(bytes) {
        let _ = message.verify(Kind::Event, &samples::device_key().public());
    }
}

fn envelope() -> impl Strategy<Value = DeviceEnvelope> {
    let number = 1..=i64::MAX.unsigned_abs();
    let ids = ("[a-z][a-z0-9-]{0,38}[a-z0-9]", any::<u128>(), any::<u128>());
    let order = (number.clone(), number, any::<[u8; 32]>(), any::<u64>(), any::<i64>());
    let content = (".{0,40}", any::<u16>(), proptest::collection::vec(any::<u8>(), 0..300));
    (ids, order, content).prop_map(|(ids, order, content)| DeviceEnvelope {
        project: ids.0.parse().unwrap_or_else(|_| ProjectId::default_project()),
        device: DeviceId(Uuid::from_u128(ids.1)),
        boot: Uuid::from_u128(ids.2),
        epoch: Epoch(order.0),
        seq: Seq(order.1),
        prev: Hash(order.2),
        mono: order.3,
        time: Timestamp(order.4),
        kind: content.0,
        version: content.1,
        data: content.2,
    })
}

fn name() -> impl Strategy<Value = MetricName> {
    prop_oneof![
        "[a-z_]{1,12}".prop_map(MetricName::from),
        (0_u64..60).prop_map(|n| {
            muster_schemas::metric_names::name(n).map_or_else(|| "x".into(), MetricName::from)
        }),
        "\\PC{1,20}".prop_map(MetricName::from),
    ]
}

fn value() -> impl Strategy<Value = FieldValue> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(FieldValue::Float),
        any::<i64>().prop_map(FieldValue::Int),
        any::<bool>().prop_map(FieldValue::Bool),
        ".{0,40}".prop_map(FieldValue::Text),
    ]
}

fn batch() -> impl Strategy<Value = MetricBatch> {
    let tags = proptest::collection::btree_map(name(), "\\PC{1,20}", 0..5);
    let fields = proptest::collection::btree_map(name(), value(), 1..8);
    let point = (name(), tags, fields, any::<i64>()).prop_map(
        |(measurement, tags, fields, offset): (_, BTreeMap<_, String>, _, _)| Point {
            measurement,
            tags,
            fields,
            offset,
        },
    );
    (any::<i64>(), proptest::collection::vec(point, 0..8))
        .prop_map(|(time, points)| MetricBatch { time: Timestamp(time), points })
}

proptest! {
    #[test]
    fn bytes_never_panic_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn mutated_samples_never_panic_a_decoder(
        which in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        to in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = which.get(&SAMPLES).bytes.clone();
        let index = at.index(bytes.len());
        bytes[index] = to;
        decode_as_everything(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        decode_as_everything(&bytes);
    }

    #[test]
    fn text_never_panics_a_parser(text in "\\PC*") {
        let _ = text.parse::<Selector>();
        let _ = text.parse::<ApiTokenText>();
        let _ = text.parse::<EnrollmentTokenText>();
        let _ = text.parse::<StreamName>();
        let _ = text.parse::<Timestamp>();
        let _ = text.parse::<Hash>();
        let _ = subjects::parse(&text);
        let _ = subjects::parse_stored(&text);
        let _ = muster_schemas::names::device_name_from_host(&text);
    }

    #[test]
    fn an_envelope_round_trips(envelope in envelope(), seed in any::<[u8; 32]>()) {
        let key = SigningKey::from_seed(&seed);
        let sealed = envelope.seal(&key);
        let (message, read) = parse_sealed(&sealed).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(message.kid(), key.thumbprint());
        prop_assert_eq!(&read, &envelope);
        prop_assert_eq!(DeviceEnvelope::from_sealed(&sealed).ok(), Some(envelope.clone()));
        let opened = cose::open(&sealed, Kind::Event, &key.public());
        prop_assert_eq!(opened.ok(), Some(codec::encode(&envelope)));
    }

    #[test]
    fn a_batch_round_trips(batch in batch()) {
        prop_assert_eq!(MetricBatch::decode(&batch.encode()), Ok(batch));
    }

    #[test]
    fn a_selector_round_trips(text in "[a-c=!, ()innot]{0,24}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>().ok(), Some(selector));
        }
    }
}
