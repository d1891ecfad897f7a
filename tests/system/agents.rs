//! The real agent: killed at any time, cloned, and as this machine's own device.

use std::time::Duration;

use muster_schemas::{Epoch, StreamName, Timestamp};
use muster_tests::agent::AgentProcess;
use muster_tests::{System, wait};
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The versions of the device's own events in the log, by epoch.
async fn reports(system: &System, device: &str) -> std::collections::BTreeMap<Epoch, Vec<u64>> {
    let mut reports = std::collections::BTreeMap::new();
    for event in system.api.list(&format!("/api/v1/devices/{device}/events?order=asc")).await {
        let stream = event["stream"].as_str().unwrap_or_default().parse();
        if let Ok(StreamName::DeviceReport(_, epoch)) = stream {
            let version = event["version"].as_u64().unwrap_or_default();
            reports.entry(epoch).or_insert_with(Vec::new).push(version);
        }
    }
    reports
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_is_the_first_device_and_reports_metrics() {
    let mut system = System::start_with(&[]).await;
    let shown = wait::until("this machine's figures", WAIT_TIMEOUT, || async {
        let devices = system.api.list("/api/v1/devices").await;
        let device = devices.first()?.clone();
        let metrics = &device["metrics"];
        let has = |name: &str| metrics[name].is_number();
        (device["status"] == "online" && has("cpu_percent") && has("memory_percent"))
            .then_some(device)
    })
    .await;
    let path = format!("/api/v1/devices/{}", shown["id"].as_str().unwrap());
    let detail = system.api.get(&path).await;
    assert!(detail["inventory"]["kernel"].is_string(), "{detail}");
    let memory = detail["inventory"]["memory_bytes"].as_u64();
    assert!(memory.is_some_and(|bytes| bytes > 1 << 28), "{detail}");

    let path = format!("{path}/metrics?field=mem.used_percent&since=5m");
    wait::until("metrics in the store", WAIT_TIMEOUT, || async {
        let response = system.api.get(&path).await;
        let points = response["series"][0]["points"].as_array().cloned().unwrap_or_default();
        points.iter().any(|point| point["value"].is_number()).then_some(())
    })
    .await;
    // It is the same device after a restart.
    assert!(system.stop().await, "{}", system.output());
    system.restart().await;
    let again = system.api.list("/api/v1/devices").await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["id"], shown["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_or_duplicated_when_an_agent_is_killed_repeatedly() {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    agent.start();
    for n in 1..=12_u64 {
        let vars = json!({"vars": {"n": n}});
        system.api.patch("/api/v1/devices/robot/config", &vars).await;
        // Killed while it applies, records, or publishes: a little later in each round.
        tokio::time::sleep(Duration::from_millis(40 * n)).await;
        agent.kill9();
        agent.start();
    }
    let device = wait::until("the last config to be applied", WAIT_TIMEOUT, || async {
        let device = system.api.get("/api/v1/devices/robot").await;
        (device["config"]["applied_version"] == 12).then_some(device)
    })
    .await;
    let id = device["id"].as_str().unwrap();
    let reports = reports(&system, id).await;
    assert_eq!(reports.len(), 1, "{reports:?}");
    for versions in reports.values() {
        assert_eq!(*versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    }
    assert_eq!(device["flags"]["unreadable_count"], 0, "{device}");
    let dead_letters: Vec<Value> = system.api.list("/api/v1/dead-letters").await;
    assert!(dead_letters.is_empty(), "{dead_letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_under_load_loses_only_the_current_metric_batch() {
    const KILLS: usize = 4;
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    let vars = json!({"vars": {"metrics.interval": "1s"}});
    system.api.patch("/api/v1/devices/robot/config", &vars).await;
    for n in 0..=KILLS {
        agent.start();
        // The first sample follows 1.5 s after the start.
        for load in 0..50 {
            let vars = json!({"vars": {"n": n * 100 + load}});
            system.api.patch("/api/v1/devices/robot/config", &vars).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if n < KILLS {
            agent.kill9();
        }
    }
    let path = "/api/v1/devices/robot/metrics?field=mem.used_percent&since=5m&step=1s&fn=count";
    // Metrics of the last run are stored, so all earlier ones have had enough time.
    let newest = time::OffsetDateTime::now_utc().unix_timestamp();
    let seconds = wait::until("the newest metrics", WAIT_TIMEOUT, || async {
        let response = system.api.get(path).await;
        let points = response["series"][0]["points"].as_array().cloned().unwrap_or_default();
        let has_one = |point: &&Value| point["value"].as_f64().is_some_and(|count| count > 0.0);
        let at = |point: &Value| point["time"].as_str()?.parse::<Timestamp>().ok();
        let seconds: Vec<i64> = points
            .iter()
            .filter(has_one)
            .filter_map(|point| Some(at(point)?.micros() / 1_000_000))
            .collect();
        seconds.last().is_some_and(|last| *last >= newest).then_some(seconds)
    })
    .await;
    // Each kill makes a gap: the rest of a second, the start, and 1.5 s until the first sample.
    // Two seconds between two samples only mean that the machine was busy.
    let holes: Vec<i64> =
        seconds.windows(2).map(|pair| pair[1] - pair[0]).filter(|s| *s > 3).collect();
    assert!(
        holes.len() <= KILLS && holes.iter().all(|hole| *hole <= 6),
        "{holes:?} in {seconds:?}"
    );
    assert!(seconds.len() >= 3 * (KILLS + 1), "{seconds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_data_folder_is_detected_and_both_branches_are_kept() {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let mut one = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    one.start();
    let applied = |version: u64| {
        let api = system.api.clone();
        async move {
            wait::until("a config to be applied", WAIT_TIMEOUT, || async {
                let device = api.get("/api/v1/devices/robot").await;
                (device["config"]["applied_version"] == version).then_some(())
            })
            .await;
        }
    };
    let set = |n: u64| {
        let api = system.api.clone();
        async move { api.patch("/api/v1/devices/robot/config", &json!({"vars": {"n": n}})).await }
    };
    set(1).await;
    applied(1).await;
    one.kill9();
    // The copy and the original both continue: two branches.
    let mut two = one.cloned("clone");
    one.start();
    set(2).await;
    applied(2).await;
    one.kill9();
    two.start();
    set(3).await;
    let device = wait::until("the fork to be named", WAIT_TIMEOUT, || async {
        let events = system.api.list("/api/v1/devices/robot/events?type=DeviceForked").await;
        let device = system.api.get("/api/v1/devices/robot").await;
        (!events.is_empty() && device["config"]["applied_version"] == 3).then_some(device)
    })
    .await;
    let reports = reports(&system, device["id"].as_str().unwrap()).await;
    assert!(reports.len() >= 2, "both branches stand in the log: {reports:?}");
    for versions in reports.values() {
        assert_eq!(*versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    }
    // The original continues from its state.
    one.start();
    set(4).await;
    applied(4).await;
}

/// Environment variables that shift a process's clock, by the library that `scripts/deps test`
/// unpacks.
fn clock_offset_variables(offset: &str) -> Vec<(String, String)> {
    let set = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let cache = set("MUSTER_CACHE").unwrap_or_else(|| {
        let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        caches.unwrap().join("muster")
    });
    let folders = std::fs::read_dir(cache.join("libfaketime/usr/lib")).into_iter().flatten();
    let library = folders
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|library| library.is_file());
    let library = library.unwrap_or_else(|| panic!("run `scripts/deps test` first"));
    [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", offset),
        // Only a device's wall clock can be wrong, not its monotonic clock.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_clock_wrong_by_years_connects_and_is_flagged() {
    const YEAR: f64 = 365.0 * 86_400.0;
    for (name, offset, years) in [("past", "-9y", -9.0), ("future", "+30y", 30.0)] {
        // Two agents of one machine in one project would have similar identity hints.
        let system = System::start().await;
        let dir = tempfile::tempdir().unwrap();
        let token = system.api.enrollment_token(1).await;
        let variables = clock_offset_variables(offset);
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let url = &system.api.url;
        let mut agent = AgentProcess::enroll_with(dir.path(), url, &token, name, &variables);
        agent.start();
        let path = format!("/api/v1/devices/{name}");
        let shown =
            wait::until("its figures, and how wrong its clock is", WAIT_TIMEOUT, || async {
                // The read model may not have it yet.
                let (_, shown) = system.api.send(reqwest::Method::GET, &path, None).await;
                let is_known = shown["metrics"]["clock_skew_seconds"].is_number();
                (shown["status"] == "online" && is_known).then_some(shown)
            })
            .await;
        let skew = shown["metrics"]["clock_skew_seconds"].as_f64().unwrap();
        assert!((skew / YEAR - years).abs() < 0.1, "{name}: {skew} s");
        // Its samples have the server's time.
        let path = format!("{path}/metrics?field=mem.used_percent&since=5m");
        wait::until("metrics of now", WAIT_TIMEOUT, || async {
            let response = system.api.get(&path).await;
            let points = response["series"][0]["points"].as_array().cloned().unwrap_or_default();
            points.iter().any(|point| point["value"].is_number()).then_some(())
        })
        .await;
        // The times in renewed credentials are the server's, too.
        let vars = json!({"vars": {"n": 1}});
        system.api.patch(&format!("/api/v1/devices/{name}/config"), &vars).await;
        wait::until("its config", WAIT_TIMEOUT, || async {
            let shown = system.api.get(&format!("/api/v1/devices/{name}")).await;
            (shown["config"]["applied_version"] == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_cloned_to_twenty_devices_is_detected_and_no_event_is_lost() {
    const CLONES: u64 = 20;
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = system.api.enrollment_token(1).await;
    let mut one = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
    one.start();
    let path = "/api/v1/devices/robot";
    wait::until("the first inventory", WAIT_TIMEOUT, || async {
        system.api.get(path).await["inventory"].is_object().then_some(())
    })
    .await;
    one.kill9();
    let mut clones: Vec<AgentProcess> =
        (0..CLONES).map(|n| one.cloned(&format!("clone-{n}"))).collect();
    // One after the other, like memory cards in one device: each reports a different version.
    for (n, clone) in (1..).zip(&mut clones) {
        system.api.patch("/api/v1/devices/robot/config", &json!({"vars": {"n": n}})).await;
        clone.start();
        wait::until("a clone to work by the new config", WAIT_TIMEOUT, || async {
            (system.api.get(path).await["config"]["applied_version"] == n).then_some(())
        })
        .await;
        clone.kill9();
    }
    let device = system.api.get(path).await;
    assert!(device["flags"]["fork_count"].as_u64() >= Some(CLONES - 1), "{device}");
    let reports = reports(&system, device["id"].as_str().unwrap()).await;
    assert!(reports.len() as u64 >= CLONES, "each went on in an epoch of its own: {reports:?}");
    for versions in reports.values() {
        assert_eq!(*versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    }
    let applied = system.api.list(&format!("{path}/events?type=DeviceConfigApplied")).await;
    let mut versions: Vec<u64> =
        applied.iter().map(|event| event["data"]["version"].as_u64().unwrap()).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions, (1..=CLONES).collect::<Vec<_>>());
}
