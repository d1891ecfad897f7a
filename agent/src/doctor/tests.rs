//! Tests of the doctor: it suggests a fix for each problem.

use std::os::unix::fs::PermissionsExt;

use muster_schemas::{ConfigVersion, Epoch, Seq, Timestamp};

use super::*;
use crate::identity::HttpError;
use crate::status::{BacklogStatus, OutboxStatus};

fn status(url: &str) -> Status {
    Status {
        is_running: false,
        agent_version: "0".into(),
        url: url.into(),
        project: "default".into(),
        device: "0198c0de-7000-7abc-8def-0123456789ab".into(),
        name: "robot-7".into(),
        enrolled_at: Timestamp(0),
        broker: None,
        connected_since: None,
        credentials_until: Some(Timestamp(1)),
        brokers: vec!["tls://0.0.0.0:1".into()],
        last_ack: None,
        last_hello: None,
        clock_skew_us: None,
        config_version: ConfigVersion::ZERO,
        outbox: OutboxStatus {
            epoch: Epoch(1),
            last_seq: Seq(9),
            confirmed: Seq(2),
            unconfirmed: 7,
            unconfirmed_bytes: 700,
            kept_bytes: 0,
            dropped: 3,
        },
        backlog: BacklogStatus { batches: 0, bytes: 0, dropped: 0 },
        local: Default::default(),
        last_error: None,
        ca: String::new(),
    }
}

#[tokio::test]
async fn every_problem_has_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // No process listens on port 1.
    let checks = examine(dir.path(), Ok(status("https://127.0.0.1:1/"))).await;
    let failed: Vec<&str> =
        checks.iter().filter(|check| !check.is_ok()).map(|check| check.name).collect();
    assert_eq!(
        failed,
        ["data folder", "agent", "server", "broker", "broker", "credentials", "outbox"]
    );

    let listener = checks.iter().rfind(|check| check.name == "broker").unwrap();
    let expected = "also unreachable via the server's HTTPS port: the pinned CA is invalid: ";
    assert!(listener.found.starts_with(expected), "{}", listener.found);

    let checks = examine(&dir.path().join("none"), Err("not enrolled".into())).await;
    assert!(checks.iter().all(|check| !check.is_ok()), "{checks:?}");
    let identity = checks.last().unwrap();
    assert_eq!((identity.name, identity.found.as_str()), ("identity", "not enrolled"));
}

#[test]
fn a_large_clock_skew_is_reported() {
    let moment =
        |micros| crate::clock::Moment { boot: uuid::Uuid::nil(), mono: 0, wall: Timestamp(micros) };
    for (skew, is_ok) in [(0, true), (50, true), (-50, true), (70, false), (-1_000_000_000, false)]
    {
        let server = 1_700_000_000_000_000;
        let check = network::clock(&moment(server + skew * 1_000_000), Timestamp(server));
        assert_eq!(check.is_ok(), is_ok, "{check:?}");
    }
}

#[test]
fn the_reason_of_a_rejected_connection_is_reported() {
    let mut rejected = status("https://127.0.0.1:1/");
    rejected.is_running = true;
    let error = |status| HttpError::Refused {
        url: "https://x".into(),
        status,
        kind: None,
        problem: "Not proved".into(),
    };
    rejected.last_error = Some((Timestamp(0), error(401).to_string()));
    let remedy = device::running(&rejected).remedy.unwrap();
    assert!(remedy.contains("muster device show"), "{remedy}");
    rejected.last_error = Some((Timestamp(0), error(503).to_string()));
    let remedy = device::running(&rejected).remedy.unwrap();
    assert!(!remedy.contains("muster device show"), "{remedy}");
}
