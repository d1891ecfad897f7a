//! What operators do every day: by the command line, as README shows it.

use std::time::Duration;

use muster_tests::{SimDevice, System, wait};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn ok(system: &System, args: &[&str]) -> String {
    let (code, out, err) = system.muster(args);
    assert_eq!(code, 0, "muster {}: {err}", args.join(" "));
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_named_labeled_configured_and_replayed() {
    let system = System::start().await;
    let token = ok(&system, &["token", "create", "--uses", "2", "--label", "site=a"]);
    let token = token.trim();
    let device = SimDevice::join(&system.api, &system.ca(), token, "one").await;
    let other = SimDevice::join(&system.api, &system.ca(), token, "two").await;
    let before = system.api.get("/api/v1/log/head").await["position"].as_u64().unwrap();

    ok(&system, &["device", "label", "one", "env=prod", "old=1"]);
    ok(&system, &["device", "label", "one", "old-"]);
    ok(&system, &["device", "rename", "one", "uno"]);
    ok(&system, &["device", "config", "site=a", "metrics.interval=5", "greeting=hello"]);
    let list = wait::until("the changes", PATIENCE, || async {
        let list = ok(&system, &["device", "list", "-l", "env=prod,!old"]);
        list.contains("uno").then_some(list)
    })
    .await;
    assert!(!list.contains("two"), "{list}");
    let shown = ok(&system, &["device", "show", "uno", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["config"]["vars"]["metrics.interval"], 5);
    assert_eq!(shown["config"]["vars"]["greeting"], "hello");
    assert_eq!(shown["id"], device.id());

    // As it was, from the log alone.
    let past = ok(&system, &["replay", "--to-position", &before.to_string()]);
    assert!(past.contains("one") && !past.contains("uno"), "{past}");
    let life = ok(&system, &["events", "uno"]);
    for kind in ["DeviceRegistered", "DeviceEnrolled", "DeviceRenamed", "DeviceConfigSet"] {
        assert!(life.contains(kind), "{kind} is missing: {life}");
    }
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_get_words_and_exit_codes() {
    let system = System::start().await;
    for (args, code, words) in [
        (&["device", "show", "nobody"][..], 3, "nobody"),
        (&["device", "show", "../../x"], 3, "x"),
        (&["device", "list", "-l", "a~b"], 1, "character"),
        (&["token", "create", "--ttl", "soon"], 2, "length of time"),
        (&["replay", "--to-position", "999999"], 1, "position"),
        (&["device", "register", "Not A Name"], 1, "device name"),
        (&["nonsense"], 2, "nonsense"),
        (&["--url", "https://127.0.0.1:1", "status"], 5, "cannot reach"),
        (&["--token", "mst_x", "status"], 4, "token"),
    ] {
        let (found, _, err) = system.muster(args);
        assert_eq!(found, code, "muster {}: {err}", args.join(" "));
        assert!(err.contains(words), "muster {}: {err}", args.join(" "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_kept_over_a_stop_and_over_a_power_failure() {
    let mut system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "one").await;
    device.chain.record_many(20);
    device.settle(PATIENCE).await;
    let head = system.api.get("/api/v1/log/head").await;
    assert!(system.stop().await, "{}", system.said());
    system.start_again().await;
    device.chain.record_many(20);
    device.settle(PATIENCE).await;
    system.kill();
    system.start_again().await;
    device.chain.record_many(20);
    device.settle(PATIENCE).await;
    let events = system.api.list("/api/v1/events?order=asc").await;
    assert_eq!(events.iter().filter(|event| event["sealed"] == true).count(), 60);
    assert!(events.len() as u64 > head["position"].as_u64().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cannot_use_one_folder() {
    let system = System::start().await;
    let dir = system.dir();
    let (code, _, err) =
        system.muster(&["up", "--no-agent", "--port", "0", "--data", dir.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("another `muster up` uses"), "{err}");
}
