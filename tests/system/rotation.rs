//! A device gets a new signing key on an operator's request: once, despite any crash.

use std::time::Duration;

use muster_tests::agent::AgentProcess;
use muster_tests::{System, wait};
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

async fn fingerprint(system: &System) -> String {
    let device = system.api.get("/api/v1/devices/robot").await;
    device["enrollment"]["fingerprint"].as_str().unwrap_or_default().to_owned()
}

fn request_rotation(system: &System) {
    let (code, out, err) = system.muster(&["device", "rotate-key", "robot"]);
    assert_eq!(code, 0, "{out}{err}");
}

async fn wait_for_change(system: &System, before: &str) -> String {
    wait::until("the new key", WAIT_TIMEOUT, || async {
        Some(fingerprint(system).await).filter(|now| now != before && !now.is_empty())
    })
    .await
}

async fn rotations(system: &System) -> usize {
    system.api.list("/api/v1/devices/robot/events?type=DeviceKeyRotated").await.len()
}

async fn applied(system: &System, n: u64) {
    let vars = json!({"vars": {"n": n}});
    system.api.patch("/api/v1/devices/robot/config", &vars).await;
    wait::until("a config to be applied", WAIT_TIMEOUT, || async {
        let config = system.api.get("/api/v1/devices/robot").await["config"].clone();
        (config["applied_version"] == config["version"]).then_some(())
    })
    .await;
}

async fn start() -> (System, tempfile::TempDir, AgentProcess) {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    agent.start();
    applied(&system, 0).await;
    (system, dir, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_once_per_request_whenever_the_agent_is_killed() {
    let (system, _dir, mut agent) = start().await;
    let mut key = fingerprint(&system).await;
    for n in 1..=6_u64 {
        request_rotation(&system);
        // Killed before it receives the request, while it stores the key, before and after the log
        // has the new key.
        tokio::time::sleep(Duration::from_millis(12 * n * (n - 1))).await;
        agent.kill9();
        agent.start();
        key = wait_for_change(&system, &key).await;
        applied(&system, n).await;
    }
    assert_eq!(rotations(&system).await, 6);

    // An offline device gets the request when it reconnects; two requests make one new key.
    agent.kill9();
    request_rotation(&system);
    request_rotation(&system);
    agent.start();
    key = wait_for_change(&system, &key).await;
    applied(&system, 7).await;
    assert_eq!(rotations(&system).await, 7);

    let (code, shown, _) = system.muster(&["device", "show", "robot"]);
    assert!(code == 0 && shown.contains(&key), "{shown}");
    let device = system.api.get("/api/v1/devices/robot").await;
    assert_eq!(device["flags"]["unreadable_count"], 0, "{device}");
    assert_eq!(device["flags"]["fork_count"], 0, "{device}");
    let dead_letters = system.api.list("/api/v1/dead-letters").await;
    assert!(dead_letters.is_empty(), "{dead_letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_an_earlier_release_has_recorded_is_found_in_the_log() {
    let (mut system, _dir, _agent) = start().await;
    let key = fingerprint(&system).await;
    request_rotation(&system);
    wait_for_change(&system, &key).await;
    applied(&system, 1).await;
    let (url, _) = muster_server::up::servers_in(&system.dir()).unwrap();
    let client = crate::authority::sql(&url).await;
    let forget = "UPDATE device_keys SET rotation_position = NULL
        WHERE rotation_position IS NOT NULL";
    assert_eq!(client.execute(forget, &[]).await.unwrap(), 1);
    // The process has remembered the key.
    assert!(system.stop().await);
    system.restart().await;
    applied(&system, 2).await;
    let found = "SELECT count(*) FROM device_keys WHERE rotation_position IS NOT NULL";
    let client = crate::authority::sql(&url).await;
    assert_eq!(client.query_one(found, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_with_the_previous_key_is_rejected_and_reported() {
    let (system, _dir, mut agent) = start().await;
    agent.kill9();
    let mut copy = agent.cloned("copy");
    agent.start();
    let key = fingerprint(&system).await;
    request_rotation(&system);
    wait_for_change(&system, &key).await;
    applied(&system, 1).await;
    agent.kill9();

    copy.start();
    let fork = wait::until("the copy to be named", WAIT_TIMEOUT, || async {
        let events = system.api.list("/api/v1/devices/robot/events?type=DeviceForked").await;
        events.into_iter().next()
    })
    .await;
    assert_eq!(fork["data"]["epoch"], fork["data"]["continues_in_epoch"], "{fork}");
    let vars = json!({"vars": {"n": 2}});
    system.api.patch("/api/v1/devices/robot/config", &vars).await;
    wait::until("the copy to get that", WAIT_TIMEOUT, || async {
        (copy.status()["config_version"].as_u64() >= Some(4)).then_some(())
    })
    .await;
    // None of its reports is accepted, however long it runs.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let config = system.api.get("/api/v1/devices/robot").await["config"].clone();
        assert_ne!(config["applied_version"], config["version"], "{config}");
    }
    assert_eq!(rotations(&system).await, 1);

    // The original device continues.
    copy.kill9();
    agent.start();
    applied(&system, 3).await;
    let forks = system.api.list("/api/v1/devices/robot/events?type=DeviceForked").await;
    assert_eq!(forks.len(), 1, "told once: {forks:?}");
}
