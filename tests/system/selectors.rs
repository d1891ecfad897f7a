//! Selectors by metrics that a device reports at different intervals.

use std::time::Duration;

use muster_tests::agent::AgentProcess;
use muster_tests::{SimDevice, System, wait};
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const SELECTOR: &str = "mem.available > 1Mi and online";

/// Returns the point of a measurement in the newest metrics of the device.
async fn point(system: &System, measurement: &str) -> Option<Value> {
    let latest = system.api.get("/api/v1/devices/robot/metrics/latest").await;
    let points = latest["points"].as_array().cloned().unwrap_or_default();
    points.into_iter().find(|point| point["measurement"] == measurement)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_group_is_selected_by_between_its_reports_and_known_after_a_restart() {
    let mut system = System::start().await;
    let token = system.api.enrollment_token(2).await;
    let silent = SimDevice::join(&system.api, &system.ca(), &token, "silent").await;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    agent.start();
    let config = ["device", "config", "robot", "metrics.interval=1s", "metrics.interval.mem=12s"];
    let (code, _, err) = system.muster(&config);
    assert_eq!(code, 0, "{err}");
    let slow = wait::until("the interval of the slow group", WAIT_TIMEOUT, || async {
        let point = point(&system, "mem").await?;
        point["interval_seconds"].as_f64().is_some_and(|seconds| seconds > 11.0).then_some(point)
    })
    .await;
    assert_eq!(slow["stale"], false, "{slow}");
    let fast = point(&system, "cpu").await.unwrap();
    assert!(fast["interval_seconds"].as_f64().unwrap() < 4.0, "{fast}");

    // Most batches have no value of the slow group.
    for attempt in 1..=6 {
        let (code, out, err) = system.muster(&["device", "list", "-l", SELECTOR]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("robot") && !out.contains("silent"), "attempt {attempt}: {out}");
        let note = "1 of 2 devices had no fresh value of mem.available";
        assert!(err.contains(note), "attempt {attempt}: {err}");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    let (code, out, err) = system.muster(&["exec", SELECTOR, "--", "echo", "selected"]);
    assert!(code == 0 && out.contains("selected"), "{code}: {out} {err}");
    assert_eq!(err.matches("1 of 2 devices had no fresh value").count(), 1, "{err}");
    let body = json!({
        "target": {"kind": "selector", "selector": SELECTOR}, "action": {"kind": "exec", "argv": ["true"]},
    });
    let requested = system.api.post("/api/v1/operations", &body).await;
    let expected = json!([{"metric": "mem.available", "device_count": 1, "candidate_count": 2}]);
    assert_eq!(requested["without_fresh_value"], expected, "{requested}");
    let (code, _, err) = system.muster(&["exec", "name=silent,mem.available>0", "--", "true"]);
    assert!(code != 0 && err.contains("1 of 1 device had no fresh value"), "{code}: {err}");

    // Only stored batches can have the value: the device reports no more.
    agent.kill9();
    drop(silent);
    assert!(system.stop().await, "{}", system.output());
    system.restart().await;
    let restored = wait::until("the slow group's value", WAIT_TIMEOUT, || point(&system, "mem"));
    let restored = restored.await;
    assert!(restored["interval_seconds"].as_f64().unwrap() > 11.0, "{restored}");
    let listed = system.api.list("/api/v1/devices?selector=name%3Drobot").await;
    assert!(listed[0]["metrics"]["memory_percent"].is_number(), "{listed:?}");
}
