//! Samples of shapes that are no longer written, but are in the log permanently. Their bytes are put
//! together by hand, because no type of today writes them.

use std::collections::{BTreeMap, BTreeSet};

use ciborium::Value;
use muster_schemas::events::{
    DeviceEnrolled, DeviceEnrollmentRequested, DeviceLabelsChanged, DeviceRegistered,
    EnrollmentTokenCreated, RequestedTarget,
};
use muster_schemas::{DeviceId, Epoch, Event, Timestamp, TokenId, codec};

use super::{Message, NATS_KEY, Sample, device_key, devices, digest, id, operations, text};

/// Version 1 of a shape that got one more field in version 2.
#[expect(clippy::expect_used, reason = "bytes that were written a line before")]
fn without(event: impl Into<Event>, version: u16, field: &str) -> Sample {
    let event = event.into();
    let newest: Value = codec::decode(&event.encode()).expect("today's bytes");
    let mut entries = newest.into_map().expect("a map");
    entries.retain(|(key, _)| key.as_text() != Some(field));
    Sample {
        name: event.kind(),
        version,
        bytes: codec::encode(&Value::Map(entries)),
        message: Message::Event(event),
        is_newest: false,
    }
}

/// Version 1 of `OperationRequested` has the target as text.
#[expect(clippy::expect_used, reason = "bytes that were written a line before")]
fn operation_requested_1() -> Sample {
    let event = Event::from(operations::requested(RequestedTarget::Text("env=prod".into())));
    let newest: Value = codec::decode(&event.encode()).expect("today's bytes");
    let mut entries = newest.into_map().expect("a map");
    for (key, value) in &mut entries {
        if key.as_text() == Some("target") {
            *value = "env=prod".into();
        }
    }
    Sample {
        name: event.kind(),
        version: 1,
        bytes: codec::encode(&Value::Map(entries)),
        message: Message::Event(event),
        is_newest: false,
    }
}

pub(super) fn samples() -> Vec<Sample> {
    let labels = [("env", "prod"), ("site", "berlin-2")];
    let map = |entries: &[(&str, &str)]| {
        Value::Map(entries.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    };
    let labels_changed = Sample {
        name: "DeviceLabelsChanged",
        version: 1,
        bytes: codec::encode(&Value::Map(vec![("labels".into(), map(&labels))])),
        message: Message::Event(
            DeviceLabelsChanged {
                set: labels.iter().map(|(key, value)| (text(key), text(value))).collect(),
                removed: Vec::new(),
            }
            .into(),
        ),
        is_newest: false,
    };
    vec![
        labels_changed,
        operation_requested_1(),
        without(
            DeviceRegistered {
                name: text("robot-7"),
                labels: devices::labels(),
                fingerprint: None,
            },
            1,
            "fingerprint",
        ),
        without(
            DeviceEnrollmentRequested {
                signing_key: device_key().public().to_cose_key(),
                fingerprint: device_key().thumbprint(),
                nats_key: NATS_KEY.into(),
                token: Some(TokenId(id(2))),
                hostname: Some("Robot 7".into()),
                machine: Some(digest("machine")),
                macs: Vec::new(),
                like: Some(DeviceId(id(3))),
            },
            1,
            "macs",
        ),
        without(
            DeviceEnrolled {
                epoch: Epoch(2),
                signing_key: device_key().public().to_cose_key(),
                fingerprint: device_key().thumbprint(),
                nats_key: NATS_KEY.into(),
                token: Some(TokenId(id(2))),
                hostname: Some("Robot 7".into()),
                machine: Some(digest("machine")),
                macs: Vec::new(),
            },
            1,
            "macs",
        ),
        without(
            EnrollmentTokenCreated {
                name: text("line 3, first batch"),
                secret: digest("secret"),
                expires_at: Timestamp(1_795_507_200_000_000),
                uses: 25,
                labels: devices::labels(),
                device: Some(DeviceId(id(1))),
                approval: false,
                config: BTreeMap::new(),
                allow_labels: BTreeSet::new(),
            },
            1,
            "approval",
        ),
        without(
            EnrollmentTokenCreated {
                name: text("line 3, first batch"),
                secret: digest("secret"),
                expires_at: Timestamp(1_795_507_200_000_000),
                uses: 25,
                labels: devices::labels(),
                device: Some(DeviceId(id(1))),
                approval: true,
                config: BTreeMap::new(),
                allow_labels: BTreeSet::new(),
            },
            2,
            "config",
        ),
        without(
            EnrollmentTokenCreated {
                name: text("line 3, first batch"),
                secret: digest("secret"),
                expires_at: Timestamp(1_795_507_200_000_000),
                uses: 25,
                labels: devices::labels(),
                device: Some(DeviceId(id(1))),
                approval: true,
                config: devices::config(),
                allow_labels: BTreeSet::new(),
            },
            3,
            "allow_labels",
        ),
    ]
}
