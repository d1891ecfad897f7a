//! Tests of the decider of devices.

use std::collections::BTreeMap;

use muster_schemas::events::{
    Cause, DeviceConfigSet, DeviceDeleted, DeviceEnrolled, DeviceEnrollmentAccepted,
    DeviceEnrollmentRejected, DeviceEnrollmentRequested, DeviceEpochGranted, DeviceForked,
    DeviceLabelsChanged, DeviceRegistered, DeviceRenamed, DeviceRevoked,
};
use muster_schemas::names::{
    ConfigKey, ConfigValue, DeviceName, LabelKey, Labels, MAX_CONFIG_VARS, MAX_LABELS,
};
use muster_schemas::{ConfigVersion, Epoch, Seq};
use proptest::prelude::*;

use super::super::Changes;
use super::super::device::{Device, DeviceCommand, Enrollment, ForkPoint};
use super::*;

fn register(name: &str) -> DeviceCommand {
    DeviceCommand::Register {
        name: name.parse().unwrap(),
        labels: BTreeMap::new(),
        fingerprint: None,
    }
}

fn registered() -> Event {
    let name = "a".parse().unwrap();
    DeviceRegistered { name, labels: BTreeMap::new(), fingerprint: None }.into()
}

fn enrollment(seed: u8) -> Box<Enrollment> {
    Box::new(Enrollment {
        signing_key: vec![seed],
        fingerprint: hash(seed),
        nats_key: "U".into(),
        token: None,
        hostname: None,
        machine: None,
        macs: Vec::new(),
    })
}

fn enroll(seed: u8) -> DeviceCommand {
    DeviceCommand::Enroll(enrollment(seed))
}

fn enrolled(epoch: Epoch, seed: u8) -> Event {
    DeviceEnrolled {
        epoch,
        signing_key: vec![seed],
        fingerprint: hash(seed),
        nats_key: "U".into(),
        token: None,
        hostname: None,
        machine: None,
        macs: Vec::new(),
    }
    .into()
}

fn requested(seed: u8) -> Event {
    DeviceEnrollmentRequested {
        signing_key: vec![seed],
        fingerprint: hash(seed),
        nats_key: "U".into(),
        token: None,
        hostname: None,
        machine: None,
        macs: Vec::new(),
        like: None,
    }
    .into()
}

fn revoked() -> Event {
    DeviceRevoked { reason: None }.into()
}

fn deleted() -> Event {
    DeviceDeleted { name: "a".parse().unwrap() }.into()
}

fn labels(pairs: &[(&str, Option<&str>)]) -> DeviceCommand {
    DeviceCommand::ChangeLabels(
        pairs
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), value.map(|value| value.parse().unwrap())))
            .collect(),
    )
}

fn set(name: &str, value: Option<ConfigValue>) -> DeviceCommand {
    DeviceCommand::SetConfig(Changes::from([(name.parse().unwrap(), value)]))
}

fn configured(version: u64, name: &str, value: ConfigValue) -> Event {
    let set = [(name.parse().unwrap(), value)].into();
    DeviceConfigSet { version: ConfigVersion(version), set, removed: Vec::new() }.into()
}

#[test]
fn a_device_is_registered_once_and_enrolls_in_a_new_epoch_each_time() {
    assert_eq!(when::<Device>([], enroll(1)), not_found("device"));
    assert_eq!(when::<Device>([], register("a")), Ok(vec![registered()]));
    assert_eq!(when::<Device>([registered()], register("b")), conflict(Conflict::DeviceExists));
    let first = [registered(), enrolled(Epoch(1), 1)];
    assert_eq!(when::<Device>([registered()], enroll(1)), Ok(vec![enrolled(Epoch(1), 1)]));
    assert_eq!(when::<Device>(first.clone(), enroll(2)), Ok(vec![enrolled(Epoch(2), 2)]));
    let state = given::<Device>(first);
    assert_eq!((state.epoch, state.fingerprint), (Epoch(1), Some(hash(1))));
}

#[test]
fn a_deleted_device_rejects_every_command_but_its_history_is_kept() {
    let history = [registered(), enrolled(Epoch(1), 1), deleted()];
    let alive = [registered(), enrolled(Epoch(1), 1)];
    assert_eq!(when::<Device>(alive, DeviceCommand::Delete), Ok(vec![deleted()]));
    for command in [
        enroll(2),
        DeviceCommand::Delete,
        DeviceCommand::Rename("b".parse().unwrap()),
        labels(&[("env", Some("prod"))]),
        set("k", Some(ConfigValue::Int(1))),
        DeviceCommand::RotateKey,
        DeviceCommand::Revoke { reason: None },
        DeviceCommand::GrantEpoch { current: Epoch(1), cause: Cause::Fork, fork: None },
        DeviceCommand::RecordCopy { epoch: Epoch(1), seq: Seq(1) },
        DeviceCommand::Accept { replaces: None },
        DeviceCommand::Reject { reason: None },
    ] {
        assert_eq!(
            when::<Device>(history.clone(), command.clone()),
            not_found("device"),
            "{command:?}"
        );
    }
}

#[test]
fn names_and_labels_change_only_what_differs() {
    let device = [registered()];
    let renamed = DeviceRenamed { name: "b".parse().unwrap(), previous: "a".parse().unwrap() };
    let rename = DeviceCommand::Rename("b".parse().unwrap());
    assert_decides_once::<Device>(&device, &rename, &[renamed.into()]);
    let changed = DeviceLabelsChanged {
        set: [("env".parse().unwrap(), "prod".parse().unwrap())].into(),
        removed: Vec::new(),
    };
    let labeled = [registered(), changed.clone().into()];
    let change = labels(&[("env", Some("prod")), ("gone", None)]);
    assert_decides_once::<Device>(&device, &change, &[changed.into()]);
    let removed =
        DeviceLabelsChanged { set: BTreeMap::new(), removed: vec!["env".parse().unwrap()] };
    assert_decides_once::<Device>(&labeled, &labels(&[("env", None)]), &[removed.into()]);
    let many: Vec<String> = (0..=MAX_LABELS).map(|n| format!("l{n}")).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), Some("x"))).collect();
    let expected = ("labels", (MAX_LABELS + 1).to_string());
    assert_eq!(invalid(when::<Device>(device, labels(&many))), expected);
}

#[test]
fn config_variables_are_versioned_and_limited() {
    let text = |length| ConfigValue::Text("x".repeat(length));
    let device = [registered()];
    let first = configured(1, "k", text(4096));
    assert_decides_once::<Device>(
        &device,
        &set("k", Some(text(4096))),
        std::slice::from_ref(&first),
    );
    let removed = DeviceConfigSet {
        version: ConfigVersion(2),
        set: BTreeMap::new(),
        removed: vec!["k".parse().unwrap()],
    };
    assert_decides_once::<Device>(&[registered(), first], &set("k", None), &[removed.into()]);
    for value in [text(4097), ConfigValue::Float(f64::NAN)] {
        assert_eq!(invalid(when::<Device>(device.clone(), set("k", Some(value)))).0, "vars");
    }
    let many = (0..=MAX_CONFIG_VARS)
        .map(|n| (format!("v{n}").parse().unwrap(), Some(ConfigValue::Int(1))))
        .collect();
    let expected = ("vars", (MAX_CONFIG_VARS + 1).to_string());
    assert_eq!(invalid(when::<Device>(device, DeviceCommand::SetConfig(many))), expected);
}

#[test]
fn a_replacement_sets_all_and_removes_the_others() {
    let key = |text: &str| text.parse::<ConfigKey>().unwrap();
    let rotation = "agent.key_generation";
    let device = [
        registered(),
        configured(1, "k", ConfigValue::Int(1)),
        configured(2, rotation, ConfigValue::Int(2)),
    ];
    let vars = [(key("new"), ConfigValue::Int(3))].into();
    let replaced = DeviceConfigSet {
        version: ConfigVersion(3),
        set: [(key("new"), ConfigValue::Int(3))].into(),
        removed: vec![key("k")],
    };
    assert_decides_once::<Device>(&device, &DeviceCommand::ReplaceConfig(vars), &[replaced.into()]);
    let labels: Labels = [("a".parse().unwrap(), "b".parse().unwrap())].into();
    let set = DeviceLabelsChanged { set: labels.clone(), removed: Vec::new() };
    assert_decides_once::<Device>(
        &[registered()],
        &DeviceCommand::ReplaceLabels(labels),
        &[set.into()],
    );
}

#[test]
fn new_names_and_label_keys_are_unambiguous() {
    for name in ["0198c0de-7000-7abc-8def-0123456789ab", "stream"] {
        let name: DeviceName = name.parse().unwrap();
        let rename = DeviceCommand::Rename(name.clone());
        assert_eq!(invalid(when::<Device>(vec![registered()], rename)).0, "name");
        let (labels, fingerprint) = (Labels::new(), None);
        let register = DeviceCommand::Register { name, labels, fingerprint };
        assert_eq!(invalid(when::<Device>(Vec::new(), register)).0, "name");
    }
    for key in ["os", "status", "offline", "or", "label.x", "metric.mem.free"] {
        let labels: Labels = [(key.parse().unwrap(), "b".parse().unwrap())].into();
        let replace = DeviceCommand::ReplaceLabels(labels);
        assert_eq!(
            invalid(when::<Device>(vec![registered()], replace)),
            ("labels", key.to_owned())
        );
        // Those of earlier releases can be removed.
        let key = key.parse::<LabelKey>().unwrap();
        let remove = DeviceCommand::ChangeLabels([(key, None)].into());
        assert_eq!(when::<Device>(vec![registered()], remove), Ok(Vec::new()));
    }
}

#[test]
fn each_key_rotation_request_has_its_own_number() {
    let key = "agent.key_generation";
    let device = vec![registered(), enrolled(Epoch(1), 1)];
    let first = configured(1, key, ConfigValue::Int(1));
    let then = Ok(vec![first.clone()]);
    assert_eq!(when::<Device>(device.clone(), DeviceCommand::RotateKey), then);
    let asked = [&device[..], &[first]].concat();
    let second = configured(2, key, ConfigValue::Int(2));
    assert_eq!(when::<Device>(asked.clone(), DeviceCommand::RotateKey), Ok(vec![second]));
    // A removed variable does not make a number appear twice.
    let removed = DeviceConfigSet {
        version: ConfigVersion(2),
        set: BTreeMap::new(),
        removed: vec![key.parse().unwrap()],
    };
    let forgotten = [asked, vec![removed.into()]].concat();
    let third = configured(3, key, ConfigValue::Int(3));
    assert_eq!(when::<Device>(forgotten, DeviceCommand::RotateKey), Ok(vec![third]));
    for without_key in [vec![registered()], vec![registered(), enrolled(Epoch(1), 1), revoked()]] {
        let decision = when::<Device>(without_key, DeviceCommand::RotateKey);
        assert_eq!(decision, conflict(Conflict::NothingToRotate));
    }
}

#[test]
fn epochs_only_increase() {
    let granted = |epoch, previous| {
        Event::from(DeviceEpochGranted { epoch, previous, cause: Cause::HistoryLost })
    };
    let grant =
        |current, fork| DeviceCommand::GrantEpoch { current, cause: Cause::HistoryLost, fork };
    let device = [registered(), enrolled(Epoch(1), 1)];
    assert_eq!(
        when::<Device>(device.clone(), grant(Epoch(1), None)),
        Ok(vec![granted(Epoch(2), Epoch(1))])
    );
    // After a restored backup a device is ahead of the log.
    assert_eq!(
        when::<Device>(device.clone(), grant(Epoch(9), None)),
        Ok(vec![granted(Epoch(10), Epoch(9))])
    );
    let ahead = [registered(), enrolled(Epoch(1), 1), granted(Epoch(10), Epoch(9))];
    assert_eq!(when::<Device>(ahead.clone(), enroll(2)), Ok(vec![enrolled(Epoch(11), 2)]));
    assert_eq!(
        when::<Device>(ahead, grant(Epoch(1), None)),
        Ok(vec![granted(Epoch(11), Epoch(1))])
    );

    let fork = ForkPoint { seq: Seq(5), logged_hash: Some(hash(5)), other_hash: None };
    let forked = DeviceForked {
        epoch: Epoch(1),
        seq: Seq(5),
        logged: Some(hash(5)),
        other: None,
        continues_in: Epoch(2),
    };
    assert_eq!(
        when::<Device>(device.clone(), grant(Epoch(1), Some(fork))),
        Ok(vec![forked.into(), granted(Epoch(2), Epoch(1))])
    );
    let copy = DeviceForked {
        epoch: Epoch(1),
        seq: Seq(7),
        logged: None,
        other: None,
        continues_in: Epoch(1),
    };
    assert_eq!(
        when::<Device>(device, DeviceCommand::RecordCopy { epoch: Epoch(1), seq: Seq(7) }),
        Ok(vec![copy.into()])
    );
}

#[test]
fn a_pending_machine_is_accepted_once_or_rejected_permanently() {
    let name = || "a".parse().unwrap();
    let accept = || DeviceCommand::Accept { replaces: None };
    let wait = || DeviceCommand::AwaitApproval { enrollment: enrollment(1), like: None };
    assert_eq!(when::<Device>([registered()], accept()), conflict(Conflict::NotPending(name())));
    assert_eq!(when::<Device>([registered()], wait()), Ok(vec![requested(1)]));
    let pending = [registered(), requested(1)];
    assert_eq!(when::<Device>(pending.clone(), wait()), conflict(Conflict::CannotBecomePending));

    let accepted = |replaces| Event::from(DeviceEnrollmentAccepted { replaces });
    let then = vec![accepted(None), enrolled(Epoch(1), 1)];
    assert_eq!(when::<Device>(pending.clone(), accept()), Ok(then.clone()));
    let joined = [&pending[..], &then].concat();
    assert_eq!(when::<Device>(joined.clone(), accept()), conflict(Conflict::NotPending(name())));
    assert_eq!(when::<Device>(joined, wait()), conflict(Conflict::CannotBecomePending));

    let known = Some(device(7));
    assert_eq!(
        when::<Device>(pending.clone(), DeviceCommand::Accept { replaces: known }),
        Ok(vec![accepted(known), deleted()])
    );
    let reason = Some("unknown machine".to_owned());
    let rejected = DeviceEnrollmentRejected { reason: reason.clone() };
    assert_eq!(
        when::<Device>(pending, DeviceCommand::Reject { reason }),
        Ok(vec![rejected.into(), deleted()])
    );
}

#[test]
fn a_revocation_lasts_until_the_device_enrolls_again() {
    let revoke = || DeviceCommand::Revoke { reason: None };
    let name = || "a".parse().unwrap();
    assert_eq!(
        when::<Device>([registered()], revoke()),
        conflict(Conflict::NothingToRevoke(name()))
    );
    let device = [registered(), enrolled(Epoch(1), 1)];
    assert_decides_once::<Device>(&device, &revoke(), &[revoked()]);
    let history = [&device[..], &[revoked()]].concat();
    assert!(given::<Device>(history.clone()).is_revoked);
    assert_eq!(when::<Device>(history.clone(), enroll(1)), Ok(vec![enrolled(Epoch(2), 1)]));
    assert!(!given::<Device>([history, vec![enrolled(Epoch(2), 1)]].concat()).is_revoked);
}

#[test]
fn only_an_enrolled_device_with_valid_keys_is_checked_as_enrolled() {
    let check = |events: Vec<Event>| given::<Device>(events).check_enrolled();
    let not =
        |state| Err(Rejection::from(Conflict::NotEnrolled { name: "a".parse().unwrap(), state }));
    assert_eq!(check(vec![]), Err(Rejection::NotFound("device")));
    assert_eq!(check(vec![registered()]), not(NotEnrolled::NeverEnrolled));
    assert_eq!(check(vec![registered(), requested(1)]), not(NotEnrolled::Pending));
    assert_eq!(check(vec![registered(), enrolled(Epoch(1), 1)]), Ok(()));
    assert_eq!(
        check(vec![registered(), enrolled(Epoch(1), 1), revoked()]),
        not(NotEnrolled::Revoked)
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
