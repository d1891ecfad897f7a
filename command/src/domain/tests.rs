//! Tests of the deciders: given / when / then, and proptests that states accept what they have
//! decided.

use std::collections::BTreeMap;

use muster_schemas::events::{Cause, EnrollmentTokenCreated};
use muster_schemas::names::ConfigValue;
use muster_schemas::{DeviceId, Event, Hash, Retention, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use super::device::{Changes, Device, DeviceCommand, Enrollment};
use super::enrollment_token::{EnrollmentToken, EnrollmentTokenCommand};
use super::name::{Name, NameCommand};
use super::project::{Project, ProjectCommand};
use super::*;

/// Returns a code for a rejection, without its text.
fn code(rejection: &Rejection) -> String {
    match rejection {
        Rejection::NotFound(what) => format!("no {what}"),
        Rejection::NameNotFound { what, .. } => format!("unnamed {what}"),
        Rejection::Conflict(_) => "conflict".to_owned(),
        Rejection::Invalid { field, .. } => format!("invalid {field}"),
        Rejection::TokenRefused(_) => "token refused".to_owned(),
        Rejection::Refused(_) => "refused".to_owned(),
    }
}

/// Decides commands in sequence; returns the types of the events, or the rejection's code.
fn decide<D: Decider>(commands: impl IntoIterator<Item = D::Command>) -> Vec<String> {
    let mut state = D::default();
    let mut results = Vec::new();
    for command in commands {
        match state.decide(command) {
            Ok(events) => {
                results.push(events.iter().map(Event::kind).collect::<Vec<_>>().join("+"));
                state = events.iter().fold(state, D::evolve);
            }
            Err(refusal) => results.push(code(&refusal)),
        }
    }
    results
}

fn register(name: &str) -> DeviceCommand {
    DeviceCommand::Register {
        name: name.parse().unwrap(),
        labels: BTreeMap::new(),
        fingerprint: None,
    }
}

fn enroll(seed: u8) -> DeviceCommand {
    DeviceCommand::Enroll(Box::new(Enrollment {
        signing_key: vec![seed],
        fingerprint: Hash([seed; 32]),
        nats_key: "U".into(),
        token: None,
        hostname: None,
        machine: None,
        macs: Vec::new(),
    }))
}

fn labels(pairs: &[(&str, Option<&str>)]) -> DeviceCommand {
    DeviceCommand::ChangeLabels(
        pairs
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), value.map(|value| value.parse().unwrap())))
            .collect(),
    )
}

#[test]
fn a_device_passes_from_registration_to_deletion() {
    let results = decide::<Device>([
        enroll(1),
        register("a"),
        register("b"),
        enroll(1),
        DeviceCommand::Rename("b".parse().unwrap()),
        DeviceCommand::Rename("b".parse().unwrap()),
        labels(&[("env", Some("prod")), ("gone", None)]),
        labels(&[("env", Some("prod"))]),
        labels(&[("env", None)]),
        DeviceCommand::GrantEpoch { current: 1, cause: Cause::HistoryLost, fork: None },
        DeviceCommand::Delete,
        DeviceCommand::Delete,
        enroll(2),
    ]);
    assert_eq!(
        results,
        [
            "no device",
            "DeviceRegistered",
            "conflict",
            "DeviceEnrolled",
            "DeviceRenamed",
            "",
            "DeviceLabelsChanged",
            "",
            "DeviceLabelsChanged",
            "DeviceEpochGranted",
            "DeviceDeleted",
            "no device",
            "no device",
        ]
    );
}

#[test]
fn the_last_set_retention_of_a_project_applies() {
    let create = |retention| ProjectCommand::Create { title: "A".parse().unwrap(), retention };
    let keep = |retention| ProjectCommand::Change {
        title: None,
        archived: None,
        retention: Some(retention),
    };
    let (default, month) = (Retention::Default, Retention::Days(30));
    let results = decide::<Project>([
        keep(month),
        create(month),
        keep(month),
        keep(Retention::Days(7)),
        keep(default),
        keep(default),
        ProjectCommand::Change {
            title: Some("B".parse().unwrap()),
            archived: Some(true),
            retention: Some(month),
        },
    ]);
    assert_eq!(
        results,
        [
            "no project",
            "ProjectCreated+ProjectRetentionSet",
            "",
            "ProjectRetentionSet",
            "ProjectRetentionSet",
            "",
            "ProjectRenamed+ProjectArchived+ProjectRetentionSet",
        ]
    );
    assert_eq!(decide::<Project>([create(default)]), ["ProjectCreated"]);
    let set = Project::default().decide(create(month)).unwrap();
    let last = Project::fold(&set).decide(keep(default)).unwrap();
    let Event::ProjectRetentionSet(event) = &last[0] else { panic!("{last:?}") };
    assert_eq!((event.retention, event.previous), (default, month));
}

#[test]
fn epochs_only_increase() {
    let mut device = Device::default();
    let mut epochs = Vec::new();
    for command in [
        register("a"),
        enroll(1),
        DeviceCommand::GrantEpoch { current: 1, cause: Cause::Fork, fork: None },
        enroll(2),
        DeviceCommand::GrantEpoch { current: 9, cause: Cause::Fork, fork: None },
    ] {
        let events = device.decide(command).unwrap();
        device = events.iter().fold(device, Device::evolve);
        epochs.push(device.epoch);
    }
    assert_eq!(epochs, [0, 1, 2, 3, 10]);
}

#[test]
fn each_key_rotation_request_has_its_own_number() {
    let ask = || DeviceCommand::RotateKey;
    let key = "agent.key_generation".parse::<muster_schemas::names::ConfigKey>().unwrap();
    let forget = DeviceCommand::SetConfig(Changes::from([(key.clone(), None)]));
    let mut device = Device::default();
    let mut requested = Vec::new();
    for command in [register("a"), enroll(1), ask(), ask(), forget, ask()] {
        let events = device.decide(command).unwrap();
        device = events.iter().fold(device, Device::evolve);
        requested.extend(device.config.get(&key).cloned());
    }
    assert_eq!(requested, [1, 2, 4].map(ConfigValue::Int));
    let results = decide::<Device>([
        register("a"),
        ask(),
        enroll(1),
        DeviceCommand::Revoke { reason: None },
        ask(),
    ]);
    let conflict = "conflict";
    assert_eq!(
        results,
        ["DeviceRegistered", conflict, "DeviceEnrolled", "DeviceRevoked", conflict]
    );
}

#[test]
fn config_limits_are_enforced() {
    let text = |length| Some(ConfigValue::Text("x".repeat(length)));
    let set = |value| DeviceCommand::SetConfig(Changes::from([("k".parse().unwrap(), value)]));
    let results = decide::<Device>([
        register("a"),
        set(text(4097)),
        set(Some(ConfigValue::Float(f64::NAN))),
        set(text(4096)),
        set(text(4096)),
        set(None),
    ]);
    assert_eq!(
        results,
        [
            "DeviceRegistered",
            "invalid vars",
            "invalid vars",
            "DeviceConfigSet",
            "",
            "DeviceConfigSet",
        ]
    );
}

#[test]
fn a_name_has_one_holder() {
    let (one, two) = (DeviceId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
    let results = decide::<Name>([
        NameCommand::Reserve(one),
        NameCommand::Reserve(one),
        NameCommand::Reserve(two),
        NameCommand::Release(two),
        NameCommand::Release(one),
        NameCommand::Reserve(two),
    ]);
    assert_eq!(
        results,
        ["DeviceNameReserved", "", "conflict", "", "DeviceNameReleased", "DeviceNameReserved"]
    );
}

#[test]
fn an_enrollment_token_allows_its_number_of_uses_until_it_expires() {
    let token = |uses, expires, device| EnrollmentTokenCommand::Create {
        token: EnrollmentTokenCreated {
            name: "t".parse().unwrap(),
            secret: Hash([1; 32]),
            expires_at: Timestamp(expires),
            uses,
            labels: BTreeMap::new(),
            device,
            approval: false,
            config: Default::default(),
            allow_labels: Default::default(),
        },
        now: Timestamp(10),
    };
    let device = DeviceId(Uuid::from_u128(1));
    let take = |secret, now| EnrollmentTokenCommand::Use {
        secret: Hash([secret; 32]),
        device,
        now: Timestamp(now),
    };
    assert_eq!(
        decide::<EnrollmentToken>([
            take(1, 11),
            token(1, 10, None),
            token(0, 20, None),
            token(1, 20, None),
            take(2, 11),
            take(1, 20),
            take(1, 11),
            take(1, 11),
            EnrollmentTokenCommand::Revoke,
            take(1, 11),
        ]),
        [
            "token refused",
            "invalid expires_at",
            "invalid uses",
            "EnrollmentTokenCreated",
            "token refused",
            "token refused",
            "EnrollmentTokenUsed",
            "token refused",
            "EnrollmentTokenRevoked",
            "token refused",
        ],
    );
    let other = Some(DeviceId(Uuid::from_u128(2)));
    assert_eq!(
        decide::<EnrollmentToken>([token(1, 20, other), take(1, 11)]),
        ["EnrollmentTokenCreated", "token refused"],
    );
}

fn any_command() -> impl Strategy<Value = DeviceCommand> {
    let key = prop::sample::select(vec!["a", "b", "c"]);
    let value = prop::option::of(prop::sample::select(vec!["1", "2"]));
    prop_oneof![
        Just(register("x")),
        (1..4_u8).prop_map(enroll),
        prop::sample::select(vec!["x", "y"])
            .prop_map(|name| DeviceCommand::Rename(name.parse().unwrap())),
        prop::collection::btree_map(key, value, 0..3)
            .prop_map(|pairs| { labels(&pairs.into_iter().collect::<Vec<_>>()) }),
        Just(DeviceCommand::Delete),
    ]
}

proptest! {
    #[test]
    fn a_repeated_decision_does_not_change_labels_or_names_again(
        commands in prop::collection::vec(any_command(), 0..30)
    ) {
        let mut device = Device::default();
        for command in commands {
            let Ok(events) = device.decide(command.clone()) else { continue };
            device = events.iter().fold(device, Device::evolve);
            if matches!(command, DeviceCommand::Rename(_) | DeviceCommand::ChangeLabels(_)) {
                prop_assert_eq!(device.decide(command), Ok(Vec::new()));
            }
        }
    }
}

#[test]
fn a_pending_machine_is_accepted_once_or_rejected_permanently() {
    let enrollment = || {
        Box::new(super::device::Enrollment {
            signing_key: vec![1],
            fingerprint: Hash::of(b"key"),
            nats_key: "U".into(),
            token: None,
            hostname: None,
            machine: None,
            macs: Vec::new(),
        })
    };
    let fold = |state: Device, events: &[Event]| events.iter().fold(state, Device::evolve);
    let device = fold(Device::default(), &Device::default().decide(register("robot")).unwrap());
    let accept = || DeviceCommand::Accept { replaces: None };
    assert!(matches!(device.decide(accept()), Err(Rejection::Conflict(_))), "it does not wait");

    let wait = DeviceCommand::AwaitApproval { enrollment: enrollment(), like: None };
    let waiting = fold(device.clone(), &device.decide(wait.clone()).unwrap());
    assert!(matches!(waiting.decide(wait), Err(Rejection::Conflict(_))));
    let accepted = waiting.decide(accept()).unwrap();
    let joined = fold(waiting.clone(), &accepted);
    assert_eq!((joined.epoch, joined.fingerprint), (1, Some(Hash::of(b"key"))));
    assert!(matches!(joined.decide(accept()), Err(Rejection::Conflict(_))));

    let reject = DeviceCommand::Reject { reason: None };
    let rejected = fold(waiting.clone(), &waiting.decide(reject).unwrap());
    assert!(rejected.is_deleted && !rejected.exists());

    let revoke = || DeviceCommand::Revoke { reason: None };
    assert!(matches!(device.decide(revoke()), Err(Rejection::Conflict(_))), "it has no keys");
    let revoked = fold(joined.clone(), &joined.decide(revoke()).unwrap());
    assert!(revoked.is_revoked && revoked.exists());
    assert_eq!(revoked.decide(revoke()), Ok(Vec::new()));
    let back = fold(revoked.clone(), &revoked.decide(DeviceCommand::Enroll(enrollment())).unwrap());
    assert_eq!((back.is_revoked, back.epoch), (false, 2));
}
