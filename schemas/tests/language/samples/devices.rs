//! Samples of what happens to a device.

use std::collections::BTreeMap;

use muster_schemas::cose::Kind;
use muster_schemas::events::{
    Cause, DeviceConfigApplied, DeviceConfigSet, DeviceConnected, DeviceDeleted,
    DeviceDisconnected, DeviceEnrolled, DeviceEnrollmentAccepted, DeviceEnrollmentRejected,
    DeviceEnrollmentRequested, DeviceEpochGranted, DeviceEventUnreadable, DeviceForked,
    DeviceHistoryLost, DeviceInventoryReported, DeviceKeyRotated, DeviceLabelsChanged,
    DeviceNameReleased, DeviceNameReserved, DeviceRegistered, DeviceRenamed, DeviceRevoked,
    DisconnectReason, Interface, LossCause,
};
use muster_schemas::names::{ConfigValue, ConfigVars, Labels};
use muster_schemas::{ConfigVersion, DeviceId, Epoch, Seq, Timestamp, TokenId, codec};

use super::{NATS_KEY, Sample, device_key, digest, id, next_key, text};

pub(super) fn labels() -> Labels {
    [("env", "prod"), ("site", "berlin-2"), ("muster.dev/empty", "")]
        .into_iter()
        .map(|(key, value)| (text(key), text(value)))
        .collect()
}

pub(super) fn config() -> ConfigVars {
    BTreeMap::from([
        (text("log.level"), ConfigValue::Text("debug".into())),
        (text("metrics.interval"), ConfigValue::Int(10)),
        (text("offset"), ConfigValue::Int(i64::MIN)),
        (text("ratio"), ConfigValue::Float(0.1)),
        (text("shell"), ConfigValue::Bool(false)),
    ])
}

pub(super) fn samples() -> Vec<Sample> {
    let mut samples = lifecycle();
    samples.extend(reports());
    samples
}

fn lifecycle() -> Vec<Sample> {
    let device = DeviceId(id(1));
    vec![
        Sample::event(DeviceRegistered {
            name: text("robot-7"),
            labels: labels(),
            fingerprint: Some(device_key().thumbprint()),
        }),
        Sample::event(DeviceEnrollmentRequested {
            signing_key: device_key().public().to_cose_key(),
            fingerprint: device_key().thumbprint(),
            nats_key: NATS_KEY.into(),
            token: Some(TokenId(id(2))),
            hostname: Some("Robot 7".into()),
            machine: Some(digest("machine")),
            macs: vec![digest("eth0"), digest("wlan0")],
            like: Some(DeviceId(id(3))),
        }),
        Sample::event(DeviceEnrollmentAccepted { replaces: Some(DeviceId(id(3))) }),
        Sample::event(DeviceEnrollmentRejected { reason: Some("nobody ordered it".into()) }),
        Sample::event(DeviceRevoked { reason: Some("stolen from the van".into()) }),
        Sample::event(DeviceEnrolled {
            epoch: Epoch(2),
            signing_key: device_key().public().to_cose_key(),
            fingerprint: device_key().thumbprint(),
            nats_key: NATS_KEY.into(),
            token: Some(TokenId(id(2))),
            hostname: Some("Robot 7".into()),
            machine: Some(digest("machine")),
            macs: vec![digest("eth0"), digest("wlan0")],
        }),
        Sample::event(DeviceEpochGranted {
            epoch: Epoch(3),
            previous: Epoch(2),
            cause: Cause::Fork,
        }),
        Sample::event(DeviceForked {
            epoch: Epoch(2),
            seq: Seq(17),
            logged: Some(digest("one branch")),
            other: Some(digest("other branch")),
            continues_in: Epoch(3),
        }),
        Sample::event(DeviceRenamed { name: text("robot-8"), previous: text("robot-7") }),
        Sample::event(DeviceLabelsChanged {
            set: labels(),
            removed: vec![text("retired"), text("a/b")],
        }),
        Sample::event(DeviceConfigSet {
            version: ConfigVersion(4),
            set: config(),
            removed: vec![text("old.name")],
        }),
        Sample::event(DeviceConnected {
            connection: "NCXMJZYQEWUDJFLYLSTTE745I2WUNCVG3LJJ3NRKSFJXEG6RGK7753DJ/42".into(),
            address: Some("192.0.2.7".into()),
        }),
        Sample::event(DeviceDisconnected {
            connection: "NCXMJZYQEWUDJFLYLSTTE745I2WUNCVG3LJJ3NRKSFJXEG6RGK7753DJ/42".into(),
            reason: DisconnectReason::Silent,
            detail: Some("Stale Connection".into()),
        }),
        Sample::event(DeviceDeleted { name: text("robot-8") }),
        Sample::event(DeviceNameReserved { device }),
        Sample::event(DeviceNameReleased { device }),
    ]
}

fn reports() -> Vec<Sample> {
    let statement = codec::encode(&(DeviceId(id(1)), 2_u64, device_key().thumbprint()));
    vec![
        Sample::event(DeviceConfigApplied {
            version: ConfigVersion(4),
            errors: BTreeMap::from([("log.level".into(), "'loud' is no level".into())]),
        }),
        Sample::event(DeviceInventoryReported {
            agent_version: "0.1.0".into(),
            hostname: Some("robot-7".into()),
            os_id: Some("debian".into()),
            os_version: Some("12".into()),
            os_name: Some("Debian GNU/Linux 12 (bookworm)".into()),
            kernel: Some("6.1.0-18-arm64".into()),
            arch: Some("aarch64".into()),
            cpu_model: Some("Cortex-A72".into()),
            cpu_cores: Some(4),
            memory_bytes: Some(8 << 30),
            machine: Some(digest("machine")),
            hardware_vendor: Some("Raspberry Pi".into()),
            hardware_model: Some("Raspberry Pi 4 Model B Rev 1.4".into()),
            hardware_serial: Some("10000000abcdef01".into()),
            virtualization: None,
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: Some("dc:a6:32:01:02:03".into()),
                addresses: vec!["10.0.0.7/24".into(), "fe80::1/64".into()],
                up: true,
            }],
            boot_time: Some(Timestamp(1_795_420_700_000_000)),
            boot_id: Some("4ad80f5b-0f2a-44ad-9d8e-1d1c3f3d7a52".into()),
            docker_version: Some("27.3.1".into()),
            timezone: Some("Europe/Berlin".into()),
        }),
        Sample::event(DeviceEventUnreadable {
            claimed_type: "DoorOpened".into(),
            claimed_version: 9,
            cause: "no event has the type 'DoorOpened'".into(),
            bytes: device_key().seal(Kind::Event, b"\xa0".to_vec()),
        }),
        Sample::event(DeviceHistoryLost {
            cause: LossCause::OutboxFull,
            epoch: Epoch(2),
            first_seq: Some(Seq(18)),
            last_seq: Some(Seq(29)),
            count: Some(12),
            first_time: Some(Timestamp(1_795_420_800_000_000)),
            last_time: Some(Timestamp(-1)),
        }),
        Sample::event(DeviceKeyRotated {
            signing_key: next_key().public().to_cose_key(),
            proof: next_key().seal(Kind::Rotation, statement),
        }),
    ]
}
