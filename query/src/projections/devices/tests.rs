//! The fold: the effect of single events on a device, and that any split into batches has the same
//! effect.

use muster_api_types::devices::Status;
use muster_eventlog::StoredEvent;
use muster_schemas::events::{
    Cause, DeviceConfigApplied, DeviceConfigSet, DeviceConnected, DeviceDeleted,
    DeviceDisconnected, DeviceEnrolled, DeviceEpochGranted, DeviceInventoryReported,
    DeviceLabelsChanged, DeviceRegistered, DeviceRenamed, DisconnectReason,
};
use muster_schemas::names::ConfigValue;
use muster_schemas::{
    ConfigVersion, DeviceId, Epoch, Event, Hash, Position, StreamName, StreamVersion, Timestamp,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Device, needed};

const NOW: i64 = 1_795_420_800_000_000;

fn id() -> DeviceId {
    DeviceId(Uuid::from_u128(1))
}

fn enrolled(epoch: u64) -> Event {
    DeviceEnrolled {
        epoch: Epoch(epoch),
        signing_key: Vec::new(),
        fingerprint: Hash::of(&[1]),
        nats_key: "U".into(),
        token: None,
        hostname: Some("host".into()),
        machine: None,
        macs: Vec::new(),
    }
    .into()
}

fn registered() -> Event {
    DeviceRegistered {
        name: "robot".parse().unwrap(),
        labels: [("env".parse().unwrap(), "prod".parse().unwrap())].into(),
        fingerprint: None,
    }
    .into()
}

/// Returns the n-th of some events, of all types that change a device.
fn sample(n: u64) -> Event {
    let version = n / 12;
    match n % 12 {
        0 => DeviceRenamed {
            name: format!("robot-{version}").parse().unwrap(),
            previous: "robot".parse().unwrap(),
        }
        .into(),
        1 => DeviceLabelsChanged {
            set: [("n".parse().unwrap(), version.to_string().parse().unwrap())].into(),
            removed: vec!["env".parse().unwrap()],
        }
        .into(),
        2 => DeviceConfigSet {
            version: ConfigVersion(version),
            #[expect(clippy::cast_precision_loss, reason = "any number")]
            set: [("k".parse().unwrap(), ConfigValue::Float(version as f64 * 1e18))].into(),
            removed: Vec::new(),
        }
        .into(),
        3 | 4 => DeviceConfigApplied {
            version: ConfigVersion(version),
            errors: [("k".to_owned(), format!("no {version}\0"))].into(),
        }
        .into(),
        5..8 => DeviceInventoryReported {
            agent_version: version.to_string(),
            boot_time: Some(Timestamp(i64::MIN)),
            ..DeviceInventoryReported::default()
        }
        .into(),
        8 => {
            DeviceConnected { connection: "N/1".into(), address: Some(format!("10.0.0.{version}")) }
                .into()
        }
        9 => DeviceDisconnected {
            connection: "N/1".into(),
            reason: DisconnectReason::Closed,
            detail: None,
        }
        .into(),
        10 => DeviceEpochGranted {
            epoch: Epoch(version + 2),
            previous: Epoch(version + 1),
            cause: Cause::Fork,
        }
        .into(),
        _ => enrolled(version + 1),
    }
}

fn stream(event: &Event) -> StreamName {
    match event.kind() {
        "DeviceConnected" | "DeviceDisconnected" => StreamName::DevicePresence(id()),
        "DeviceConfigApplied" | "DeviceInventoryReported" => {
            StreamName::DeviceReport(id(), Epoch(1))
        }
        _ => StreamName::Device(id()),
    }
}

fn stored(position: u64, event: &Event, occurred_at: i64) -> StoredEvent {
    StoredEvent {
        position: Position(position),
        stream: stream(event),
        stream_version: StreamVersion(position),
        kind: event.kind().to_owned(),
        schema_version: event.version(),
        occurred_at: Timestamp(occurred_at),
        recorded_at: Timestamp(NOW + i64::try_from(position).unwrap()),
        actor: "test".into(),
        correlation: None,
        causation: None,
        record: event.encode().into(),
        salt: vec![0; 32].into(),
        authority: None,
    }
}

fn fold(events: &[Event]) -> Device {
    let mut device = Device::default();
    for (event, position) in events.iter().zip(1..) {
        device.evolve(&stored(position, event, NOW)).unwrap();
    }
    device
}

#[test]
fn a_device_passes_through_its_states() {
    let connected = || sample(8);
    let disconnected = || sample(9);
    let deleted = || Event::from(DeviceDeleted { name: "robot".parse().unwrap() });
    for (events, status) in [
        (vec![registered()], Status::Registered),
        (vec![registered(), enrolled(1)], Status::Offline),
        (vec![registered(), enrolled(1), connected()], Status::Online),
        (vec![registered(), enrolled(1), connected(), disconnected()], Status::Offline),
        (vec![registered(), enrolled(1), connected(), deleted()], Status::Deleted),
    ] {
        assert_eq!(fold(&events).status(), status, "{events:?}");
    }
    let device = fold(&[registered(), enrolled(1), sample(1), connected(), disconnected()]);
    assert_eq!(device.version, StreamVersion(3));
    assert_eq!(device.hostname(), Some("host"));
    assert_eq!(device.presence.unwrap().address.as_deref(), Some("10.0.0.0"));
    assert_eq!(serde_json::to_string(&device.labels).unwrap(), r#"{"n":"0"}"#);
}

#[test]
fn implausible_times_are_flagged_until_the_next_plausible_one() {
    let mut device = fold(&[registered(), enrolled(1)]);
    for (time, odd) in [(0, true), (NOW + 3_600_000_000, true), (NOW - 86_400_000_000, false)] {
        device.evolve(&stored(3, &sample(5), time)).unwrap();
        assert_eq!(device.flags.clock_implausible, odd, "{time}");
    }
    assert_eq!(device.flags.implausible_time_count, 2);
}

#[test]
fn an_event_that_cannot_be_applied_stops_the_fold_and_an_unknown_one_does_not() {
    let mut broken = stored(1, &registered(), NOW);
    broken.record = vec![0xff].into();
    assert!(Device::default().evolve(&broken).is_err());
    broken.kind = "DeviceTeleported".into();
    assert!(Device::default().evolve(&broken).is_ok());
    broken.kind = "DeviceEventUnreadable".into();
    let mut device = Device::default();
    assert!(device.evolve(&broken).is_ok());
    assert_eq!(device.flags.unreadable_count, 1);
}

#[test]
fn the_number_of_kept_epochs_is_limited() {
    let events: Vec<Event> = (1..40).map(enrolled).collect();
    let device = fold(&events);
    assert_eq!(device.epochs.len(), Device::EPOCHS);
    assert_eq!(device.epochs.last().map(|epoch| epoch.epoch), Some(Epoch(39)));
}

proptest! {
    /// A row that is written and read back between any two batches, each without its replaced
    /// events, equals the row after all events one by one.
    #[test]
    fn any_split_into_batches_produces_the_same_row(
        numbers in prop::collection::vec(0_u64..240, 1..60),
        sizes in prop::collection::vec(1_usize..20, 1..60),
    ) {
        let mut events = vec![registered(), enrolled(1)];
        events.extend(numbers.into_iter().map(sample));
        let text = |device: &Device| serde_json::to_string(device).unwrap();
        let expected = text(&fold(&events));

        let all: Vec<StoredEvent> = events
            .iter()
            .zip(1..)
            .map(|(event, position)| stored(position, event, NOW))
            .collect();
        let mut row = text(&Device::default());
        let mut rest = all.as_slice();
        let mut sizes = sizes.into_iter().cycle();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
            rest = after;
            let mut device: Device = serde_json::from_str(&row).unwrap();
            for (event, needed) in batch.iter().zip(needed(batch)) {
                device.apply_metadata(event);
                if needed {
                    device.apply(event).unwrap();
                }
            }
            row = text(&device);
        }
        prop_assert_eq!(row, expected);
    }
}
