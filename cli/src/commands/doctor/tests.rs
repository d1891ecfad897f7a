//! Checks that need no server.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use muster_eventlog::{Examination, ReadModel};
use muster_schemas::Timestamp;

use super::{Check, broker, files, stores};

const NOW: i64 = 1_795_420_800_000_000;
const DAY_MICROS: i64 = 86_400 * 1_000_000;

fn wrong(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| check.remedy.is_some()).map(|check| check.name).collect()
}

/// Returns a read model that has not read `lag` events, the oldest of which is `age` seconds old.
fn model(name: &str, lag: u64, age: i64) -> ReadModel {
    ReadModel {
        name: name.to_owned(),
        project: "default".to_owned(),
        lag,
        behind_since: (lag > 0).then_some(Timestamp(NOW - age * 1_000_000)),
        failure: None,
    }
}

fn healthy() -> Examination {
    Examination {
        version: "17.5".into(),
        now: Timestamp(NOW),
        missing: 0,
        read_models: vec![model("devices_v0", 1_000_000, 0)],
        dead_letters: 0,
        excess_privileges: None,
        connections: (10, 100),
    }
}

#[test]
fn an_expiring_certificate_is_reported_in_advance() {
    let check =
        |days: i64| files::certificate("CA", Timestamp(NOW + days * DAY_MICROS), Timestamp(NOW));
    assert!(check(30).remedy.is_none());
    assert!(check(29).remedy.is_some());
    assert!(check(-2).remedy.is_some() && check(-2).found.contains('2'));
}

#[test]
fn keys_readable_by_others_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (key, public) = (dir.path().join("x.seed"), dir.path().join("ca.pem"));
    fs::write(&key, "x").unwrap();
    fs::write(&public, "x").unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let checks = files::keys(dir.path());
    assert_eq!(wrong(&checks), ["keys"]);
    assert!(checks[0].found.ends_with("x.seed"), "{checks:?}");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    assert!(wrong(&files::keys(dir.path())).is_empty());
    assert_eq!(wrong(&files::keys(&dir.path().join("away"))), ["keys"]);
}

#[test]
fn database_problems_are_distinguished() {
    let judge = |found: Examination| {
        let checks = stores::examination_checks(&found, Timestamp(NOW));
        wrong(&checks).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // A read model of an earlier release is not updated, which is correct.
    assert!(judge(healthy()).is_empty());
    let table = muster_query::projections::devices::TABLE;
    assert_eq!(judge(Examination { missing: 2, ..healthy() }), ["tables"]);
    assert_eq!(judge(Examination { dead_letters: 1, ..healthy() }), ["dead letters"]);
    assert_eq!(judge(Examination { connections: (95, 100), ..healthy() }), ["PostgreSQL"]);
    assert_eq!(judge(Examination { now: Timestamp(NOW - 9_000_000), ..healthy() }), ["clock"]);
    assert_eq!(
        judge(Examination { read_models: vec![model(table, 9_999, 0)], ..healthy() }),
        ["read models"]
    );
    let stopped = ReadModel { failure: Some("x".to_owned()), ..model(table, 0, 0) };
    assert_eq!(judge(Examination { read_models: vec![stopped], ..healthy() }), ["read models"]);
    for table in muster_query::PROJECTIONS.into_iter().chain(["dispatch_v2"]) {
        let with = |age| Examination { read_models: vec![model(table, 1, age)], ..healthy() };
        assert_eq!(judge(with(10)), [""; 0], "{table}");
        assert_eq!(judge(with(20)), ["read models"], "{table}");
    }
}

#[test]
fn a_full_stream_is_reported() {
    assert!(broker::stream_capacity("metrics", 1, 79, 100).remedy.is_none());
    assert!(broker::stream_capacity("metrics", 1, 81, 100).remedy.is_some());
    assert!(broker::stream_capacity("metrics", 1, 81, -1).remedy.is_none());
}
