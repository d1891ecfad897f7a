//! Writes to many devices in one request, and PUT.

use muster_tests::System;
use muster_tests::api::Api;
use muster_tests::fleet::Fleet;
use reqwest::Method;
use serde_json::{Value, json};

/// Number of devices of the tests.
const DEVICES: usize = 300;

async fn register(api: &Api, names: impl Iterator<Item = String>) -> Value {
    let devices: Vec<Value> =
        names.map(|name| json!({"name": name, "labels": {"site": "berlin"}})).collect();
    api.post("/api/v1/devices/bulk/register", &json!({"devices": devices})).await
}

async fn select(api: &Api, selector: &str) -> usize {
    api.list(&format!("/api/v1/devices?selector={selector}")).await.len()
}

async fn check(api: &Api) {
    let path = |action: &str| format!("/api/v1/devices/bulk/{action}");
    let result = register(api, (0..DEVICES).map(|n| format!("robot-{n}"))).await;
    assert_eq!((&result["registered_count"], &result["failed_count"]), (&300.into(), &0.into()));
    assert_eq!(select(api, "site=berlin").await, DEVICES, "a stale read");

    // A taken name does not affect the others.
    let result = register(api, ["robot-7".to_owned(), "crane".to_owned()].into_iter()).await;
    assert_eq!((&result["registered_count"], &result["failed_count"]), (&1.into(), &1.into()));
    let [taken, made] = [&result["items"][0], &result["items"][1]];
    assert_eq!(taken["problem"]["type"], "/problems/name-taken", "{taken}");
    let holder = api.get("/api/v1/devices/robot-7").await;
    assert_eq!(taken["problem"]["device"]["id"], holder["id"]);
    assert_eq!(made["device"]["name"], "crane");

    // A repetition with the same key returns the same devices; another body is refused before
    // anything is written.
    let key = [("idempotency-key", "register-1")];
    let body = json!({"devices": [{"name": "key-a"}, {"name": "key-b"}]});
    let (_, first) = api.send_with(Method::POST, &path("register"), &body, &key).await;
    let (_, again) = api.send_with(Method::POST, &path("register"), &body, &key).await;
    assert_eq!(first["items"], again["items"]);
    let body = json!({"devices": [{"name": "key-c"}, {"name": "key-b"}]});
    let (status, problem) = api.send_with(Method::POST, &path("register"), &body, &key).await;
    assert_eq!((status, &problem["type"]), (422, &"/problems/idempotency-key-reused".into()));
    assert_eq!(api.send(Method::GET, "/api/v1/devices/key-c", None).await.0, 404);
    let body = json!({"devices": [{"name": "good"}, {"name": "bad", "labels": {"os": "x"}}]});
    let result = api.post(&path("register"), &body).await;
    let pointer = &result["items"][1]["problem"]["errors"][0]["pointer"];
    assert_eq!((&result["registered_count"], pointer), (&1.into(), &"/devices/1/labels".into()));

    // The same name twice.
    let twice = json!({"devices": [{"name": "a"}, {"name": "b"}, {"name": "a"}]});
    let (status, problem) = api.send(Method::POST, &path("register"), Some(&twice)).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &"/devices/2/name".into()));

    // A dry run changes nothing.
    let target = json!({"kind": "selector", "selector": "name=robot-1*"});
    let change =
        json!({"target": target, "labels": {"env": "prod"}, "vars": {"log.level": "info"}});
    let mut dry = change.clone();
    dry["dry_run"] = true.into();
    let preview = api.post(&path("change"), &dry).await;
    assert_eq!((&preview["dry_run"], &preview["device_count"]), (&true.into(), &111.into()));
    assert_eq!(select(api, "env=prod").await, 0);

    let changed = api.post(&path("change"), &change).await;
    assert_eq!((&changed["device_count"], &changed["failed_count"]), (&111.into(), &0.into()));
    assert_eq!(select(api, "env=prod").await, 111, "a stale read");
    let device = api.get("/api/v1/devices/robot-1").await;
    assert_eq!(device["config"]["vars"]["log.level"], "info");
    assert_eq!(changed["items"][0]["version"], device["version"]);

    // Named devices; an unknown one is an error, and nothing is done.
    let devices = json!({"kind": "devices", "devices": ["robot-2", "unknown"]});
    let (status, problem) =
        api.send(Method::POST, &path("delete"), Some(&json!({"target": devices}))).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &"/target/devices".into()));
    let all = json!({"target": {"kind": "selector", "selector": ""}});
    let (status, problem) = api.send(Method::POST, &path("delete"), Some(&all)).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &"/target/selector".into()));
    assert_eq!(select(api, "site=berlin").await, DEVICES + 1);

    let delete = json!({"target": {"kind": "selector", "selector": "env=prod"}});
    let key = [("idempotency-key", "delete-1")];
    let (status, problem) = api.send_with(Method::POST, &path("delete"), &delete, &key).await;
    assert_eq!((status, &problem["errors"][0]["header"]), (400, &"Idempotency-Key".into()));
    let deleted = api.post(&path("delete"), &delete).await;
    assert_eq!((&deleted["device_count"], &deleted["failed_count"]), (&111.into(), &0.into()));
    assert_eq!(select(api, "site=berlin").await, DEVICES + 1 - 111, "a stale read");
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_writes_are_visible_to_the_next_read() {
    let system = System::start().await;
    check(&system.api).await;
    put_creates_or_replaces(&system.api).await;
    names_and_label_keys_are_unambiguous(&system.api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_writes_are_visible_to_the_next_read_with_a_process_for_each_role() {
    check(&Fleet::start().await.api).await;
}

async fn put_creates_or_replaces(api: &Api) {
    let put = async |path: &str, body: Value, headers: &[(&str, &str)]| {
        api.send_with(Method::PUT, path, &body, headers).await
    };
    let device = "/api/v1/devices/put-1";
    let labels = |labels: Value| json!({"labels": labels});
    let (status, problem) = put(device, labels(json!({})), &[("if-match", "\"1\"")]).await;
    assert_eq!((status, &problem["type"]), (412, &"/problems/precondition-failed".into()));
    for any in ["*", "\"0\""] {
        let (status, _) = put(device, labels(json!({})), &[("if-match", any)]).await;
        assert_eq!(status, 412, "{any}");
    }
    let (status, made) = put(device, labels(json!({"a": "1", "b": "2"})), &[]).await;
    assert_eq!((status, &made["labels"]), (201, &json!({"a": "1", "b": "2"})), "{made}");
    let (status, same) = put(device, labels(json!({"a": "1", "b": "2"})), &[]).await;
    assert_eq!((status, &same["version"]), (200, &made["version"]), "nothing has changed");
    let (status, _) = put(device, labels(json!({})), &[("if-none-match", "\"1\"")]).await;
    assert_eq!(status, 400, "only `*` has a meaning");
    let (status, _) = put(device, labels(json!({})), &[("if-none-match", "*")]).await;
    assert_eq!(status, 412, "it was replaced");
    let (status, changed) = put(device, labels(json!({"b": "3"})), &[("if-match", "*")]).await;
    assert_eq!((status, &changed["labels"]), (200, &json!({"b": "3"})), "{changed}");
    let by_id = format!("/api/v1/devices/{}", made["id"].as_str().unwrap());
    let (status, changed) = put(&by_id, labels(json!({})), &[]).await;
    assert_eq!((status, &changed["labels"]), (200, &json!({})), "{changed}");
    let unknown = "/api/v1/devices/0198c0de-7000-7abc-8def-0123456789ab";
    assert_eq!(put(unknown, labels(json!({})), &[]).await.0, 404);
    let (status, problem) = put("/api/v1/devices/Robot_7", labels(json!({})), &[]).await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (400, &"device".into()), "{problem}");

    let config = format!("{device}/config");
    let vars = |vars: Value| json!({"vars": vars});
    let (status, set) = put(&config, vars(json!({"x": 1, "y": "z"})), &[]).await;
    assert_eq!((status, &set["vars"]), (200, &json!({"x": 1, "y": "z"})), "{set}");
    let (_, set) = put(&config, vars(json!({"y": "z", "w": true})), &[]).await;
    assert_eq!((&set["vars"], &set["version"]), (&json!({"y": "z", "w": true}), &2.into()));

    let project = "/api/v1/projects/plant-7";
    let (status, problem) = put(project, json!({}), &[("if-match", "\"1\"")]).await;
    assert_eq!((status, &problem["type"]), (412, &"/problems/precondition-failed".into()));
    assert_eq!(api.send(Method::GET, project, None).await.0, 404, "it was created");
    let body = json!({"title": "Plant 7", "retention": "90d"});
    let (status, made) = put(project, body.clone(), &[]).await;
    assert_eq!(
        (status, &made["title"], &made["retention"]),
        (201, &body["title"], &body["retention"])
    );
    let (status, changed) = put(project, json!({}), &[]).await;
    let expected = (200, &"plant-7".into(), &"default".into());
    assert_eq!((status, &changed["title"], &changed["retention"]), expected, "{changed}");
    assert_eq!(put("/api/v1/projects/system", json!({}), &[]).await.0, 400);
}

async fn names_and_label_keys_are_unambiguous(api: &Api) {
    for name in ["0198c0de-7000-7abc-8def-0123456789ab", "stream", "bulk"] {
        let body = json!({"name": name});
        let (status, problem) = api.send(Method::POST, "/api/v1/devices", Some(&body)).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &"/name".into()), "{name}");
        let (status, _) = api.send(Method::PATCH, "/api/v1/devices/put-1", Some(&body)).await;
        assert_eq!(status, 400, "renamed to {name}");
    }
    for key in ["os", "online", "and", "label.x"] {
        let body = json!({"name": "new", "labels": {key: "x"}});
        let (status, problem) = api.send(Method::POST, "/api/v1/devices", Some(&body)).await;
        let pointer = &problem["errors"][0]["pointer"];
        assert_eq!((status, pointer), (400, &"/labels".into()), "{problem}");
        let body = json!({"name": "token", "labels": {key: "x"}});
        let path = "/api/v1/enrollment-tokens";
        assert_eq!(api.send(Method::POST, path, Some(&body)).await.0, 400, "{key}");
    }
}
