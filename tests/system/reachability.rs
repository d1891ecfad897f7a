//! Sessions with unreachable devices: refused immediately with the correct reason, or waited for.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muster_backing::ports::free_port;
use muster_tests::binaries::binary;
use muster_tests::robot::online;
use muster_tests::socket::Socket;
use muster_tests::text::{has_date, has_number};
use muster_tests::{Robot, System, wait};
use serde_json::{Value, json};

/// Maximum time of a response that waits for nothing, also on a busy machine.
const MAX_IMMEDIATE_TIME: Duration = Duration::from_secs(5);
/// The paths that open sessions.
const OPEN: [&str; 3] = ["shell?cols=80&rows=24", "tcp?port=22", "files?path=%2Ftmp"];

/// Runs `muster`, and asserts that it ends immediately.
fn run_immediately(system: &System, args: &[&str]) -> (i32, String) {
    let started_at = Instant::now();
    let (code, _, err) = system.muster(args);
    assert!(
        started_at.elapsed() < MAX_IMMEDIATE_TIME,
        "{args:?} took {:?}: {err}",
        started_at.elapsed()
    );
    (code, err)
}

async fn refused(system: &System, device: &str, kind: &str) {
    for open in OPEN {
        let path = format!("/api/v1/devices/{device}/{open}");
        let (status, problem) =
            Socket::open(&system.api, &system.ca(), &path, &[]).await.unwrap_err();
        assert_eq!((status, &problem["type"]), (409, &kind.into()), "{path}: {problem}");
        assert!(problem["detail"].to_string().contains(device), "{problem}");
    }
}

/// The database of this `muster up`.
async fn database(system: &System) -> tokio_postgres::Client {
    let ports: Value =
        serde_json::from_slice(&std::fs::read(system.dir().join("ports.json")).unwrap()).unwrap();
    let password = std::fs::read_to_string(system.dir().join("postgres/password")).unwrap();
    let url =
        format!("postgres://muster:{}@127.0.0.1:{}/muster", password.trim(), ports["postgres"]);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn wait_for_status(system: &System, device: &str, status: &str) {
    wait::until(&format!("{device} to be {status}"), Duration::from_secs(60), || async {
        let path = format!("/api/v1/devices/{device}");
        let (_, shown) = system.api.send(reqwest::Method::GET, &path, None).await;
        (shown["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_device_is_refused_immediately_or_waited_for() {
    let Robot { system, mut agent, dir } = Robot::start("").await;
    agent.kill9();
    wait_for_status(&system, "robot", "offline").await;
    refused(&system, "robot", "/problems/device-offline").await;
    let here = dir.path().join("here");
    let here = here.to_str().unwrap();
    let forward = format!("{}:localhost:22", free_port().unwrap());
    for args in [
        &["shell", "robot", "--", "true"][..],
        &["cp", "robot:/etc/hostname", here],
        &["cp", "/etc/hostname", "robot:/tmp/never"],
        &["connect", "robot", "22"],
        &["forward", "robot", &forward],
        &["sftp", "robot"],
    ] {
        let (code, err) = run_immediately(&system, args);
        assert_eq!(code, 5, "{args:?}: {err}");
        assert!(err.contains("robot") && has_date(&err) && err.contains("--wait"), "{err}");
        assert!(!err.contains("127.0.0.1"), "forward listened already: {err}");
    }
    // A device that disconnected before the table had the time: no time is invented.
    let database = database(&system).await;
    let forget = "UPDATE dispatch_v2_devices SET presence_at = NULL";
    assert!(database.execute(forget, &[]).await.unwrap() > 0);
    let (code, err) = run_immediately(&system, &["connect", "robot", "22"]);
    assert!(code == 5 && err.contains("robot") && !has_date(&err), "{err}");
    // A device that never connected has no time.
    system.api.post("/api/v1/devices", &json!({"name": "never"})).await;
    let (code, err) = run_immediately(&system, &["connect", "never", "22"]);
    assert!(code == 6 && !has_date(&err), "{code}: {err}");
    // No session was recorded.
    assert!(system.api.list("/api/v1/sessions").await.is_empty());
    let started_at = Instant::now();
    let (code, _, err) = system.muster(&["shell", "robot", "--wait=2s", "--", "true"]);
    assert!(code == 5 && started_at.elapsed() >= Duration::from_secs(2), "{code}: {err}");

    let muster = |args: &[&str]| {
        Command::new(binary("muster"))
            .env("MUSTER_TOKEN", &system.api.token)
            .args(["--url", &system.api.url, "--ca"])
            .arg(system.ca())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let shell = muster(&["shell", "robot", "--wait", "--", "echo it-is-$((40+2))"]);
    let copy = muster(&["cp", "--wait=5m", "robot:/etc/hostname", here]);
    let mut listening = muster(&["forward", "--wait", "robot", &forward]);
    // Until forward has reported that it waits.
    let mut reported = Vec::new();
    let mut lines = BufReader::new(listening.stderr.take().unwrap()).lines();
    reported.extend(lines.next());
    assert!(reported[0].as_ref().unwrap().contains("robot"), "{reported:?}");
    agent.start();
    let output = shell.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("it-is-42"), "{output:?}");
    let output = copy.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(here).unwrap(), std::fs::read("/etc/hostname").unwrap());
    let mut first = String::new();
    BufReader::new(listening.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("localhost:22") && first.contains("robot"), "{first}");
    listening.kill().unwrap();
    listening.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_valid_keys_is_rejected_with_the_reason() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let registered = json!({"name": "planned"});
    system.api.post("/api/v1/devices", &registered).await;
    wait_for_status(&system, "planned", "registered").await;
    refused(&system, "planned", "/problems/device-not-enrolled").await;
    let (code, err) = run_immediately(&system, &["shell", "planned"]);
    let hint = "muster token create --device planned";
    assert!(code == 6 && err.contains(hint) && !err.contains("--wait"), "{err}");

    online(&system.api).await;
    let nothing: Value = json!({});
    system.api.post("/api/v1/devices/robot/revoke", &nothing).await;
    refused(&system, "robot", "/problems/device-revoked").await;
    let (code, err) = run_immediately(&system, &["cp", "robot:/etc/hostname", "/dev/null"]);
    assert!(code == 6 && err.contains("robot") && err.contains("revoked"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_list_is_reported_as_incomplete() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let closed = format!("/api/v1/devices/robot/tcp?port={}", free_port().unwrap());
    for _ in 0..130 {
        let result = Socket::open(&system.api, &system.ca(), &closed, &[]).await;
        assert!(result.is_err());
    }
    wait::until("all sessions to be listed", Duration::from_secs(60), || async {
        (system.api.list("/api/v1/sessions").await.len() == 130).then_some(())
    })
    .await;
    let (_, out, _) = system.muster(&["shell", "list", "--all", "--json"]);
    let listed: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(listed.len(), 130);

    for _ in 0..3 {
        let (code, _, err) = system.muster(&["exec", "robot", "--", "true"]);
        assert_eq!(code, 0, "{err}");
    }
    let listed = |more: &[&str]| {
        let (code, out, err) = system.muster(&[&["operation", "list", "--json"], more].concat());
        assert_eq!(code, 0, "{err}");
        (serde_json::from_str::<Vec<Value>>(&out).unwrap().len(), err)
    };
    let (count, note) = listed(&["-n", "2"]);
    assert!(count == 2 && has_number(&note, 2) && note.contains("--all"), "{note}");
    assert_eq!(listed(&["-n", "3"]), (3, String::new()));
    assert_eq!(listed(&["--all"]), (3, String::new()));
    let (_, _, note) = system.muster(&["events", "-n", "2"]);
    assert!(has_number(&note, 2) && note.contains("-n"), "{note}");
}
