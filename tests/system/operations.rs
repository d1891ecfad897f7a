//! Operations on one device, on many, and on offline ones; they are paused, resumed and aborted,
//! and invalid ones are refused. The devices are simulated; `remote.rs` tests orders on the real
//! agent.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_tests::binaries::binary;
use muster_tests::robot::Robot;
use muster_tests::text::has_number;
use muster_tests::{SimDevice, System, wait};
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const OPERATIONS: &str = "/api/v1/operations";
/// Id that no operation and no device has.
const UNKNOWN_ID: &str = "0198c0de-7000-7abc-8def-0123456789ab";

/// A running simulated fleet; it ends when this is dropped.
struct Fleet(Child);

impl Fleet {
    async fn start(system: &System, devices: u32) -> Self {
        let child = Command::new(binary("muster"))
            .args(["simulate", "--profile", "idle", "--for", "10m", "--prefix", "sim"])
            .args(["--devices", &devices.to_string()])
            .env("MUSTER_TOKEN", &system.api.token)
            .args(["--url", &system.api.url, "--ca"])
            .arg(system.ca())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let fleet = Self(child);
        wait::until("the fleet to be online", WAIT_TIMEOUT, || async {
            let online = system.api.list("/api/v1/devices?selector=online").await;
            (online.len() == devices as usize).then_some(())
        })
        .await;
        fleet
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exec(target: Value) -> Value {
    json!({"target": target, "action": {"kind": "exec", "argv": ["true"]}})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Waits until the operation fulfills `is_so`, and returns it.
async fn wait_for_operation(
    system: &System,
    id: &str,
    description: &str,
    is_done: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("{OPERATIONS}/{id}");
    wait::until(description, WAIT_TIMEOUT, || async {
        let (status, found) = system.api.send(Method::GET, &path, None).await;
        (status == 200 && is_done(&found)).then_some(found)
    })
    .await
}

async fn request_operation(system: &System, body: &Value) -> String {
    system.api.post(OPERATIONS, body).await["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_runs_once_on_each_device_with_limited_concurrency() {
    let system = System::start().await;
    let _fleet = Fleet::start(&system, 60).await;
    let body = with(
        exec(json!({"kind": "selector", "selector": "online"})),
        json!({"max_concurrent_devices": 7}),
    );
    let id = request_operation(&system, &body).await;
    let done =
        wait_for_operation(&system, &id, "all to be through", |one| one["status"] == "finished")
            .await;
    assert_eq!(done["run_counts"], json!({"succeeded": 60}), "{done}");
    assert_eq!((&done["device_count"], &done["finished_count"]), (&60.into(), &60.into()));
    assert_eq!(done["failures"], json!([]));
    // Each exactly once, and never more than seven between order and end.
    let events = system.api.list("/api/v1/events?order=asc&type=RunDispatched,RunSucceeded").await;
    let (mut at_work, mut most) = (0_i32, 0);
    for event in &events {
        at_work += if event["type"] == "RunDispatched" { 1 } else { -1 };
        most = most.max(at_work);
    }
    assert_eq!((events.len(), at_work), (120, 0));
    assert!((1..=7).contains(&most), "{most} at once");

    let (code, out, err) = system.muster(&["exec", "name!=nobody", "--", "true"]);
    assert_eq!(code, 2, "{out}{err}");
    assert!(has_number(&err, 60) && err.contains("--yes"), "{err}");
    let (code, out, err) = system.muster(&["exec", "name!=nobody", "--yes", "--", "true"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("60 succeeded"), "{out}");
    let (code, out, _) = system.muster(&["operation", "list"]);
    assert!(code == 0 && out.contains("60 succeeded") && out.contains("true"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn online_devices_get_their_orders_immediately_within_the_concurrency_limit() {
    let system = System::start().await;
    let _fleet = Fleet::start(&system, 9).await;
    // After a first operation the devices are known to be online.
    let id =
        request_operation(&system, &exec(json!({"kind": "selector", "selector": "online"}))).await;
    wait_for_operation(&system, &id, "all to be through", |one| one["status"] == "finished").await;
    let body = with(
        exec(json!({"kind": "selector", "selector": "online"})),
        json!({"max_concurrent_devices": 2}),
    );
    // A repeated request makes no second operation.
    let key = [("idempotency-key", "0198c0de-7000-7abc-8def-0123456789ab")];
    let (status, made) = system.api.send_with(Method::POST, OPERATIONS, &body, &key).await;
    assert_eq!(status, 201, "{made}");
    let (_, again) = system.api.send_with(Method::POST, OPERATIONS, &body, &key).await;
    assert_eq!(made["id"], again["id"]);
    let id = made["id"].as_str().unwrap();
    let done =
        wait_for_operation(&system, id, "all to be through", |one| one["status"] == "finished")
            .await;
    assert_eq!(done["run_counts"], json!({"succeeded": 9}), "{done}");
    let kinds = "OperationRequested,RunDispatched,RunSucceeded";
    let path = format!("/api/v1/events?order=asc&type={kinds}");
    let mut events = system.api.list(&path).await;
    let is_its = |stream: &str| stream.contains(id);
    events.retain(|event| {
        event["type"] == "RunSucceeded" || is_its(event["stream"].as_str().unwrap())
    });
    // Without the events of the first operation.
    let first = events.iter().position(|event| event["type"] == "OperationRequested").unwrap();
    let events = events.split_off(first);
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    let (requests, ordered) = (of("OperationRequested"), of("RunDispatched"));
    assert_eq!((requests.len(), ordered.len(), of("RunSucceeded").len()), (1, 9, 9));
    // Dispatched in the append of the request, so with the same time: the maximum number of
    // concurrent runs. The others follow.
    let with_it =
        ordered.iter().filter(|one| one["recorded_at"] == requests[0]["recorded_at"]).count();
    assert_eq!(with_it, 2);
    let (mut at_work, mut most) = (0_i32, 0);
    for event in &events {
        at_work += match event["type"].as_str() {
            Some("RunDispatched") => 1,
            Some("RunSucceeded") => -1,
            _ => 0,
        };
        most = most.max(at_work);
    }
    assert_eq!((at_work, most), (0, 2));

    // Devices selected by name.
    let all = system.api.list("/api/v1/devices?selector=online").await;
    let names: Vec<&Value> = all.iter().take(3).map(|device| &device["name"]).collect();
    let id = request_operation(&system, &exec(json!({"kind": "devices", "devices": names}))).await;
    wait_for_operation(&system, &id, "all to be through", |one| one["status"] == "finished").await;
    let done = system.api.get(&format!("{OPERATIONS}/{id}")).await;
    assert_eq!(done["run_counts"], json!({"succeeded": 3}), "{done}");
}

async fn wait_for_status(system: &System, status: &str) {
    wait::until(status, WAIT_TIMEOUT, || async {
        (system.api.get("/api/v1/devices/away").await["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_an_offline_device_waits_expires_and_is_explained() {
    let system = System::start().await;
    let token = system.api.enrollment_token(2).await;
    let away = SimDevice::join(&system.api, &system.ca(), &token, "away").await;
    wait_for_status(&system, "online").await;
    away.nats.drain().await.unwrap();
    wait_for_status(&system, "offline").await;
    let target = || exec(json!({"kind": "devices", "devices": ["away"]}));
    let id = request_operation(&system, &with(target(), json!({"expires_in_seconds": 8}))).await;
    let path = format!("{OPERATIONS}/{id}/runs/away");
    wait::until("it to wait for the device", WAIT_TIMEOUT, || async {
        let run = system.api.send(Method::GET, &path, None).await.1;
        let explanation = run["explanation"].to_string();
        (run["status"] == "requested" && explanation.contains("offline")).then_some(())
    })
    .await;
    let done =
        wait_for_operation(&system, &id, "it to expire", |one| one["status"] == "finished").await;
    assert_eq!(done["run_counts"], json!({"expired": 1}), "{done}");
    assert_eq!(done["failures"][0]["devices"][0]["name"], "away", "{done}");
    let run = system.api.get(&path).await;
    assert_eq!(run["status"], "expired", "{run}");
    let explanation = run["explanation"].as_str().unwrap();
    let (code, out, _) = system.muster(&["operation", "explain", &id]);
    assert!(code == 0 && out.contains("expired") && out.contains(explanation), "{out}");

    // A run that is canceled before its dispatch ends immediately.
    let id = request_operation(&system, &target()).await;
    system.api.post(&format!("{OPERATIONS}/{id}/runs/away/cancel"), &json!({})).await;
    let done =
        wait_for_operation(&system, &id, "it to be canceled", |one| one["status"] == "finished")
            .await;
    assert_eq!(done["run_counts"], json!({"canceled": 1}));

    // An ended operation cannot be changed.
    let before = system.api.list("/api/v1/events?order=asc").await.len();
    for verb in ["abort", "pause", "runs/away/cancel"] {
        let path = format!("{OPERATIONS}/{id}/{verb}");
        let (status, problem) = system.api.send(Method::POST, &path, Some(&json!({}))).await;
        assert_eq!(status, 409, "{verb}: {problem}");
    }
    assert_eq!(system.api.list("/api/v1/events?order=asc").await.len(), before);

    // A run of a device that is revoked ends, too.
    let id = request_operation(&system, &target()).await;
    system.api.post("/api/v1/devices/away/revoke", &json!({"reason": "stolen"})).await;
    let done =
        wait_for_operation(&system, &id, "it to be given up", |one| one["status"] == "finished")
            .await;
    assert_eq!(done["run_counts"], json!({"unknown": 1}), "{done}");

    // A revoked device, or one that has never enrolled, gets no run.
    system.api.post("/api/v1/devices", &json!({"name": "new"})).await;
    for device in ["away", "new"] {
        let body = exec(json!({"kind": "devices", "devices": [device]}));
        let (status, problem) = system.api.send(Method::POST, OPERATIONS, Some(&body)).await;
        assert_eq!(status, 409, "{device}: {problem}");
        let (code, _, err) = system.muster(&["exec", device, "--", "true"]);
        assert!(code == 6 && err.contains(device), "{device}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_reaches_a_device_whose_order_has_just_been_sent() {
    let robot = Robot::start("").await;
    let system = &robot.system;
    // With variables, the dispatcher sends the order, instead of the request handler.
    let action = json!({"kind": "exec", "argv": ["sleep", "60"], "env": {"A": "b"}});
    let id = request_operation(
        system,
        &json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": action}),
    )
    .await;
    wait_for_operation(system, &id, "it to run", |one| one["run_counts"] == json!({"running": 1}))
        .await;
    let aborted = Instant::now();
    system.api.post(&format!("{OPERATIONS}/{id}/abort"), &json!({})).await;
    wait_for_operation(system, &id, "it to be canceled", |one| {
        one["run_counts"] == json!({"canceled": 1})
    })
    .await;
    // Messages are repeated after 5 s: a cancel that waits for the repetition takes longer.
    let took = aborted.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_paused_resumed_and_aborted() {
    let system = System::start().await;
    let token = system.api.enrollment_token(20).await;
    // These devices are online and do not respond: their runs keep their state.
    let mut devices = Vec::new();
    for number in 0..6 {
        let name = format!("quiet-{number}");
        devices.push(SimDevice::join(&system.api, &system.ca(), &token, &name).await);
    }
    wait::until("them to be online", WAIT_TIMEOUT, || async {
        let online = system.api.list("/api/v1/devices?selector=online").await;
        (online.len() == 6).then_some(())
    })
    .await;
    let body = with(
        exec(json!({"kind": "selector", "selector": "online"})),
        json!({"max_concurrent_devices": 2}),
    );
    let id = request_operation(&system, &body).await;
    let two = |one: &Value| one["run_counts"] == json!({"dispatched": 2, "requested": 4});
    wait_for_operation(&system, &id, "two to be sent", two).await;
    let change = |verb: &str| format!("{OPERATIONS}/{id}/{verb}");
    system.api.post(&change("pause"), &json!({})).await;
    wait_for_operation(&system, &id, "it to be paused", |one| one["status"] == "paused").await;
    system.api.post(&change("resume"), &json!({})).await;
    wait_for_operation(&system, &id, "it to go on", |one| one["status"] == "running").await;
    system.api.post(&change("abort"), &json!({})).await;
    let aborting = wait_for_operation(&system, &id, "the rest to be canceled", |one| {
        one["run_counts"] == json!({"canceled": 4, "dispatched": 2})
    })
    .await;
    assert_eq!(
        (&aborting["status"], &aborting["abort_cause"]),
        (&"aborting".into(), &"asked".into())
    );
    let (status, problem) = system.api.send(Method::POST, &change("pause"), Some(&json!({}))).await;
    assert_eq!(status, 409, "{problem}");
    let nowhere = format!("{OPERATIONS}/{UNKNOWN_ID}/pause");
    assert_eq!(system.api.send(Method::POST, &nowhere, Some(&json!({}))).await.0, 404);
    drop(devices);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_operations_are_rejected_with_the_field() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let device = SimDevice::join(&system.api, &system.ca(), &token, "robot").await;
    system.api.post("/api/v1/devices", &json!({"name": "new"})).await;
    let robot = json!({"kind": "devices", "devices": ["robot"]});
    let argv = |argv: Value| json!({"target": robot, "action": {"kind": "exec", "argv": argv}});
    let act = |more: Value| {
        let action = with(json!({"kind": "exec", "argv": ["true"]}), more);
        json!({"target": robot, "action": action})
    };
    let devices = |names: &[&str]| json!({"kind": "devices", "devices": names});
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("V{n}"), Value::from("x"))).collect();
    for (body, field) in [
        (exec(json!({})), "/target/kind"),
        (exec(json!({"kind": "all"})), "/target/kind"),
        (exec(with(devices(&["robot"]), json!({"selector": "a=b"}))), "/target/selector"),
        (exec(devices(&["unknown"])), "/target/devices"),
        (exec(devices(&["robot", "not a name", "new"])), "/target/devices"),
        (exec(devices(&["robot", UNKNOWN_ID, "new"])), "/target/devices"),
        (exec(json!({"kind": "selector", "selector": "env=nowhere"})), "/target"),
        (exec(json!({"kind": "selector", "selector": "((("})), "/target/selector"),
        (argv(json!([])), "/action/argv"),
        (argv(json!([" "])), "/action/argv"),
        (argv(json!(["echo", "a\0b"])), "/action/argv"),
        (argv(json!(vec!["x"; 2_000])), "/action/argv"),
        (act(json!({"shell": "true"})), "/action/shell"),
        (act(json!({"user": ""})), "/action/user"),
        (act(json!({"cwd": "tmp"})), "/action/cwd"),
        (act(json!({"env": {"A=B": "c"}})), "/action/env"),
        (act(json!({"env": {"A": "c\0d"}})), "/action/env"),
        (act(json!({"env": many})), "/action/env"),
        (act(json!({"env_names": ["A"]})), "/action/env_names"),
        (act(json!({"stdin_bytes": 3})), "/action/stdin_bytes"),
        (act(json!({"stdin_base64": "?"})), "/action/stdin_base64"),
        (with(exec(robot.clone()), json!({"timeout_seconds": 0})), "/timeout_seconds"),
        (
            with(exec(robot.clone()), json!({"max_concurrent_devices": 5000})),
            "/max_concurrent_devices",
        ),
        (with(exec(robot.clone()), json!({"max_failures": 0})), "/max_failures"),
        (with(exec(robot.clone()), json!({"nonsense": 1})), "/nonsense"),
        (
            json!({"target": robot, "action": {"kind": "log_level", "level": "loud"}}),
            "/action/level",
        ),
    ] {
        let (status, problem) = system.api.send(Method::POST, OPERATIONS, Some(&body)).await;
        assert_eq!(status, 400, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], field, "{problem}");
    }
    let body = json!({"target": robot, "action": {"kind": "dance"}});
    assert_eq!(system.api.send(Method::POST, OPERATIONS, Some(&body)).await.0, 400);
    // All unknown devices are reported, then the first one that is not enrolled.
    let body = exec(json!({"kind": "devices", "devices": ["robot", "new", "unknown", "other"]}));
    let (status, problem) = system.api.send(Method::POST, OPERATIONS, Some(&body)).await;
    assert_eq!(status, 400, "{problem}");
    assert_eq!(problem["errors"][0]["value"], "unknown,other", "{problem}");
    let body = exec(json!({"kind": "devices", "devices": ["robot", "new"]}));
    let (status, problem) = system.api.send(Method::POST, OPERATIONS, Some(&body)).await;
    assert_eq!(status, 409, "{problem}");
    assert_eq!(system.api.list(OPERATIONS).await.len(), 0, "nothing of it was asked for");

    // A repeated request returns the same operation; another request with its key is refused.
    let key = [("Idempotency-Key", "once")];
    let first = system.api.send_with(Method::POST, OPERATIONS, &exec(robot.clone()), &key).await;
    let again = system.api.send_with(Method::POST, OPERATIONS, &exec(robot), &key).await;
    assert_eq!((first.0, &first.1["id"]), (201, &again.1["id"]));
    wait::until("the one operation to be listed", WAIT_TIMEOUT, || async {
        (system.api.list(OPERATIONS).await.len() == 1).then_some(())
    })
    .await;

    // Devices are named by name or id; one that is named twice gets one run.
    let body = exec(
        json!({"kind": "devices", "devices": [device.enrolled.response.device.to_string(), "robot"]}),
    );
    assert_eq!(system.api.post(OPERATIONS, &body).await["device_count"], 1);
}

/// An order is a fact: it outlives the token that gave it, also while it waits for its device, and
/// another token ends it.
#[tokio::test(flavor = "multi_thread")]
async fn operations_of_a_revoked_token_continue_until_they_are_canceled() {
    let Robot { system, mut agent, dir: _dir } = Robot::start("").await;
    let made = system.api.post("/api/v1/tokens", &json!({"name": "op", "role": "operator"})).await;
    let operator = system.api.with_token(made["secret"].as_str().unwrap());
    agent.kill9();
    wait::until("the robot to be away", WAIT_TIMEOUT, || async {
        let robot = system.api.get("/api/v1/devices/robot").await;
        (robot["status"] == "offline").then_some(())
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let made = operator
            .post(OPERATIONS, &exec(json!({"kind": "devices", "devices": ["robot"]})))
            .await;
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    let (status, response) = system.api.send(Method::DELETE, &path, None).await;
    assert!((200..300).contains(&status), "{response}");
    assert_eq!(operator.status(OPERATIONS).await, 401);
    let cancel = format!("{OPERATIONS}/{}/runs/robot/cancel", ids[1]);
    system.api.post(&cancel, &json!({})).await;
    agent.start();
    for (id, runs) in [(&ids[0], json!({"succeeded": 1})), (&ids[1], json!({"canceled": 1}))] {
        let done =
            wait_for_operation(&system, id, "it to be over", |one| one["status"] == "finished")
                .await;
        assert_eq!(done["run_counts"], runs, "{done}");
    }
}
