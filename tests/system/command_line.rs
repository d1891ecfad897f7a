//! Everyday tasks of operators with the command line, as in README.

use std::time::Duration;

use muster_schemas::metrics::{MetricBatch, Point};
use muster_tests::text::has_number;
use muster_tests::{SimDevice, System, wait};
use serde_json::Value;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

fn ok(system: &System, args: &[&str]) -> String {
    let (code, out, err) = system.muster(args);
    assert_eq!(code, 0, "muster {}: {err}", args.join(" "));
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_named_labeled_configured_and_replayed() {
    let system = System::start().await;
    let token =
        ok(&system, &["token", "create", "--uses", "2", "--label", "site=a", "--token-only"]);
    let token = token.trim();
    let device = SimDevice::join(&system.api, &system.ca(), token, "one").await;
    let other = SimDevice::join(&system.api, &system.ca(), token, "two").await;
    let before = system.api.get("/api/v1/log/head").await["position"].as_u64().unwrap();

    ok(&system, &["device", "label", "one", "env=prod", "old=1"]);
    ok(&system, &["device", "label", "one", "old-"]);
    ok(&system, &["device", "rename", "one", "uno"]);
    ok(&system, &["device", "config", "site=a", "metrics.interval=5s", "greeting=hello"]);
    let list = wait::until("the changes", WAIT_TIMEOUT, || async {
        let list = ok(&system, &["device", "list", "-l", "env=prod,!old"]);
        list.contains("uno").then_some(list)
    })
    .await;
    assert!(!list.contains("two"), "{list}");
    let shown = ok(&system, &["device", "show", "uno", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["config"]["vars"]["metrics.interval"], "5s");
    assert_eq!(shown["config"]["vars"]["greeting"], "hello");
    assert_eq!(shown["id"], device.id());

    // A past state, computed only from the log.
    let past = ok(&system, &["replay", "--to-position", &before.to_string()]);
    assert!(past.contains("one") && !past.contains("uno"), "{past}");
    let life = ok(&system, &["events", "uno"]);
    for kind in ["DeviceRegistered", "DeviceEnrolled", "DeviceRenamed", "DeviceConfigSet"] {
        assert!(life.contains(kind), "{kind} is missing: {life}");
    }
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_selected_by_their_current_metrics() {
    let system = System::start().await;
    let token = ok(&system, &["token", "create", "--uses", "3", "--token-only"]);
    let mut devices = Vec::new();
    for (name, free, battery) in [("full", 900, 90.0), ("low", 300, 15.0), ("gone", 900, 10.0)] {
        let device = SimDevice::join(&system.api, &system.ca(), token.trim(), name).await;
        let points = vec![
            Point::new("mem").field("available", free * 1024_i64 * 1024),
            Point::new("battery").tag("battery", "BAT0").field("percent", battery),
            // One busy core does not make the machine busy.
            Point::new("cpu").tag("cpu", "cpu0").field("usage_active", 99.0),
            Point::new("cpu").tag("cpu", "cpu-total").field("usage_active", battery),
        ];
        let time = std::time::SystemTime::now().into();
        device.measure(&MetricBatch { time, points }).await;
        devices.push(device);
    }
    let gone = devices.pop().unwrap();
    gone.nats.drain().await.unwrap();
    for (selector, expected) in [
        ("!online", vec!["gone"]),
        ("online", vec!["full", "low"]),
        ("mem.available > 500Mi", vec!["full", "gone"]),
        ("mem.available>500Mi,online", vec!["full"]),
        ("battery.percent < 20%", vec!["gone", "low"]),
        ("battery.percent<20,name!=low", vec!["gone"]),
        ("cpu.usage_active >= 90", vec!["full"]),
        ("mem.nonsense > 0", vec![]),
    ] {
        let names = wait::until(selector, WAIT_TIMEOUT, || async {
            let path = format!("/api/v1/devices?selector={}", escape(selector));
            let found = system.api.list(&path).await;
            let names: Vec<String> =
                found.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
            (names == expected).then_some(names)
        });
        assert_eq!(names.await, expected);
    }
    // Such a selector is also a command's target; there are no metrics of the past, which is
    // reported.
    ok(&system, &["device", "label", "battery.percent<20", "charge=me"]);
    let labeled = ok(&system, &["device", "list", "-l", "charge=me"]);
    assert!(labeled.contains("low") && labeled.contains("gone"), "{labeled}");
    let path = "/api/v1/devices?position=5&selector=mem.available%3E1";
    let (status, problem) = system.api.send(reqwest::Method::GET, path, None).await;
    assert_eq!(status, 400, "{problem}");
    assert_eq!(problem["errors"][0]["parameter"], "selector", "{problem}");
    let (code, _, err) = system.muster(&["device", "list", "-l", "mem.available > much"]);
    assert!(code == 1 && err.contains("500Mi"), "{code}: {err}");
}

fn escape(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn json(system: &System, args: &[&str]) -> Value {
    serde_json::from_str(&ok(system, args)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_sees_the_writes_of_the_previous_one() {
    let system = System::start().await;
    for n in 0..5 {
        let name = format!("robot-{n}");
        ok(&system, &["device", "register", &name, "--label", "fleet=robots"]);
        ok(&system, &["device", "label", &name, &format!("n={n}"), "retired="]);
        assert!(ok(&system, &["device", "list", "-l", &format!("n={n}")]).contains(&name));
    }
    let changed = json(&system, &["device", "label", "robot-0", "x=y", "--json"]);
    let shown = json(&system, &["device", "show", "robot-0", "--json"]);
    assert_eq!(changed[0]["id"], shown["id"], "{changed}");

    // A bare key is a selector only with -l; in all commands.
    assert_eq!(json(&system, &["device", "show", "-l", "retired", "--json"])[4]["name"], "robot-4");
    ok(&system, &["device", "config", "-l", "retired", "greeting=hello"]);
    let configs = json(&system, &["device", "config", "fleet=robots", "--json"]);
    assert_eq!(configs.as_array().map(Vec::len), Some(5));
    assert_eq!(configs[0]["config"]["vars"]["greeting"], "hello");
    assert!(ok(&system, &["events", "-l", "n"]).contains("DeviceConfigSet"));
    let fields = json(&system, &["metrics", "-l", "n=1", "--json"]);
    assert_eq!(fields[0]["items"], serde_json::json!([]), "{fields}");

    // Several devices by name, or by a name with wildcards.
    let named = json(&system, &["device", "show", "robot-3,robot-1,robot-3", "--json"]);
    assert_eq!(named.as_array().map(Vec::len), Some(2), "{named}");
    assert_eq!(named[0]["name"], "robot-3");
    ok(&system, &["device", "label", "robot-1,robot-2", "chosen=by-name"]);
    ok(&system, &["device", "label", "*-4", "chosen=by-pattern"]);
    let chosen = json(&system, &["device", "list", "-l", "chosen=by-*", "--json"]);
    assert_eq!(chosen.as_array().map(Vec::len), Some(3), "{chosen}");

    // A token for one device, by its name; shown, listed and revoked by an operator.
    let operator = ok(&system, &["api-token", "create", "me", "--role", "operator"]);
    let file = system.dir().join("operator-token");
    std::fs::write(&file, operator).unwrap();
    let file = file.to_str().unwrap();
    let as_operator = |args: &[&str]| {
        let args: Vec<&str> = ["--token-file", file].iter().chain(args).copied().collect();
        ok(&system, &args)
    };
    let made = as_operator(&["token", "create", "--device", "robot-0", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let id = made["id"].as_str().unwrap();
    assert!(as_operator(&["token", "list"]).contains(id));
    assert!(as_operator(&["token", "show", id]).contains("robot-0"));
    as_operator(&["token", "revoke", id, "--yes"]);
    assert!(as_operator(&["token", "show", id]).contains("revoked"));

    // Contexts, as JSON; a flag has precedence over the variables of this test.
    let add = ["context", "add", "other", "--url", "https://127.0.0.1:1", "--json"];
    assert_eq!(json(&system, &add)["current"], false);
    assert_eq!(json(&system, &["context", "use", "other", "--json"])["current"], true);
    let (code, _, err) = system.muster(&["--context", "other", "status"]);
    assert!(code == 5 && err.contains("127.0.0.1:1"), "{code} {err}");
    assert_eq!(json(&system, &["context", "remove", "other", "--yes", "--json"])["current"], false);
    let dead_letters = json(&system, &["dead-letter", "list", "--everywhere", "--json"]);
    assert_eq!(dead_letters.as_array().map(Vec::len), Some(0), "{dead_letters}");

    // All devices are processed, even if one fails.
    let deleted = json(&system, &["device", "delete", "-l", "retired", "--yes", "--json"]);
    assert_eq!(deleted.as_array().map(Vec::len), Some(5), "{deleted}");
    let (code, _, err) = system.muster(&["device", "delete", "-l", "retired", "--yes"]);
    assert_eq!(code, 3, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_rejected_for_one_device_is_applied_to_the_others() {
    let system = System::start().await;
    for name in ["full", "one", "two"] {
        ok(&system, &["device", "register", name, "--label", "all=1"]);
    }
    // A device has at most 64 labels.
    let many: Vec<String> = (0..63).map(|n| format!("l{n}=1")).collect();
    let mut args = vec!["device", "label", "full"];
    args.extend(many.iter().map(String::as_str));
    ok(&system, &args);
    let (code, out, err) = system.muster(&["device", "label", "-l", "all", "more=1", "--json"]);
    assert_eq!(code, 1, "{err}");
    let done: Value = serde_json::from_str(&out).unwrap();
    assert!(done[0]["error"].is_string() && done[1]["version"].is_u64(), "{done}");
    assert!(err.contains("full") && has_number(&err, 1) && has_number(&err, 3), "{err}");
    let list = ok(&system, &["device", "list", "-l", "more"]);
    assert!(list.contains("one") && list.contains("two") && !list.contains("full"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named_and_have_exit_codes() {
    let system = System::start().await;
    for (args, code, named) in [
        (&["device", "show", "nobody"][..], 3, "nobody"),
        (&["device", "show", "../../x"], 3, "x"),
        (&["device", "list", "-l", "a~b"], 1, "selector"),
        (&["token", "create", "--ttl", "soon"], 2, "soon"),
        (&["replay", "--to-position", "999999"], 6, "position"),
        (&["device", "register", "Not A Name"], 1, "name"),
        (&["nonsense"], 2, "nonsense"),
        (&["exec", "nobody", "--", "true"], 3, "nobody"),
        (&["exec", "nobody,no-one", "--", "true"], 3, "'nobody', 'no-one'"),
        (&["device", "label", "nobody,no-one", "a=b"], 3, "'nobody', 'no-one'"),
        (&["device", "list", "-l", "statsu=online"], 1, "did you mean 'status'"),
        (&["device", "list", "-l", "status=onlin"], 1, "did you mean 'online'"),
        (&["shell", "name=nobody*", "--", "true"], 3, "name=nobody*"),
        (&["upload", "start", "nobody", "/etc/hosts"], 3, "nobody"),
        (&["device", "reboot", "nobody", "--yes"], 3, "nobody"),
        (&["device", "label", "vm"], 2, "key=value"),
        (&["device", "label", "env=none", "a=b"], 3, "env=none"),
        (&["device", "show"], 2, "-l"),
        (&["device", "show", "vm", "-l", "env"], 2, "-l"),
        (&["metrics", "-l", "env", "cpu.usage_user"], 3, "env"),
        (&["token", "create", "--device", "nobody"], 3, "nobody"),
        (&["--context", "nowhere", "status"], 3, "nowhere"),
        (&["context", "use", "nowhere"], 3, "nowhere"),
        (&["serve", "--postgres-url", "x", "--nats-url", "x", "--keys", "x"], 2, "--influx-url"),
        (&["--url", "https://127.0.0.1:1", "status"], 5, "https://127.0.0.1:1"),
        (&["--token", "mst_x", "status"], 2, "--token-file"),
        (&["--token-file", "/dev/null", "status"], 4, "token"),
    ] {
        let (found, _, err) = system.muster(args);
        assert_eq!(found, code, "muster {}: {err}", args.join(" "));
        assert!(err.contains(named), "muster {}: {err}", args.join(" "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_data_survives_a_stop_and_a_power_failure() {
    let mut system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "one").await;
    device.chain.record_many(20);
    device.sync(WAIT_TIMEOUT).await;
    let head = system.api.get("/api/v1/log/head").await;
    assert!(system.stop().await, "{}", system.output());
    system.restart().await;
    device.chain.record_many(20);
    device.sync(WAIT_TIMEOUT).await;
    system.kill();
    system.restart().await;
    device.chain.record_many(20);
    device.sync(WAIT_TIMEOUT).await;
    let events = system.api.list("/api/v1/events?order=asc").await;
    assert_eq!(events.iter().filter(|event| event["sealed"] == true).count(), 60);
    assert!(events.len() as u64 > head["position"].as_u64().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_is_used_by_one_process() {
    let system = System::start().await;
    let dir = system.dir();
    let (code, _, err) =
        system.muster(&["up", "--no-agent", "--port", "0", "--data", dir.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains(dir.to_str().unwrap()) && err.contains("--data"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_exports_prometheus_metrics() {
    let system = System::start().await;
    assert_eq!(system.api.with_token("").status("/metrics").await, 401);
    system.api.get("/api/v1/devices").await;
    let (status, text) = system.api.send(reqwest::Method::GET, "/metrics", None).await;
    assert_eq!(status, 200);
    let text = text.as_str().unwrap();
    for name in [
        "muster_http_requests_total{",
        "route=\"/api/v1/devices\"",
        "muster_http_request_seconds_bucket{",
        "muster_projection_lag_events{",
        "muster_log_position{project=\"default\"}",
        "muster_ingest_",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
}
