//! Authorization of every operation of the API for every role, and without a valid token.

use muster_tests::System;
use reqwest::Method;
use serde_json::{Value, json};

// Sets of roles that are authorized for an operation.
const ALL_ROLES: &[&str] = &["viewer", "operator", "auditor", "admin"];
const WRITERS: &[&str] = &["operator", "admin"];
const ALL_BUT_VIEWERS: &[&str] = &["operator", "auditor", "admin"];
const ALL_READERS: &[&str] = &["auditor", "admin"];
const ADMINS: &[&str] = &["admin"];

/// The roles authorized for each operation that requires a token. A missing operation fails the
/// test.
fn allowed(operation: &str) -> &'static [&'static str] {
    match operation {
        "list_devices" | "stream_devices" | "get_device" | "list_device_events"
        | "query_metrics" | "list_metric_fields" | "get_latest_metrics" | "list_events"
        | "stream_events" | "get_event" | "get_fleet_summary" | "get_log_head"
        | "list_projections" | "get_whoami" | "list_projects" | "get_project"
        | "list_operations" | "get_operation" | "list_runs" | "get_run" | "list_uploads"
        | "get_upload" | "list_sessions" | "get_session" | "get_device_config" => ALL_ROLES,
        "register_device"
        | "change_device"
        | "delete_device"
        | "set_device_config"
        | "create_enrollment_token"
        | "revoke_enrollment_token"
        | "replace_device"
        | "replace_device_config"
        | "register_devices"
        | "change_devices"
        | "delete_devices"
        | "accept_device"
        | "reject_device"
        | "revoke_device"
        | "rotate_device_key"
        | "request_operation"
        | "pause_operation"
        | "resume_operation"
        | "abort_operation"
        | "cancel_run"
        | "get_upload_content"
        | "delete_upload"
        | "create_download_link"
        | "open_shell"
        | "attach_session"
        | "end_session"
        | "open_tcp"
        | "open_files" => WRITERS,
        "list_enrollment_tokens"
        | "get_enrollment_token"
        | "get_run_output"
        | "get_session_recording" => ALL_BUT_VIEWERS,
        "list_api_tokens" | "get_api_token" | "list_dead_letters" | "get_dead_letter" => {
            ALL_READERS
        }
        "create_token" | "revoke_token" | "retry_dead_letter" | "create_project"
        | "change_project" | "replace_project" => ADMINS,
        other => panic!("say here who may do {other}"),
    }
}

struct Operation {
    id: String,
    method: Method,
    path: String,
    in_project: bool,
}

fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(muster_server::openapi_document()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["security"] != json!([{"bearer": []}]) {
                continue;
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            found.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: filled(path),
                in_project: parameters
                    .iter()
                    .any(|parameter| parameter["name"] == "project" && parameter["in"] == "query"),
            });
        }
    }
    found
}

/// Fills in each parameter of a path with an id or name that does not exist.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{position}" | "{id}" => "999999999",
        "{project}" => "nowhere",
        part if part.starts_with('{') => "0198c0de-7000-7abc-8def-0123456789ab",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

async fn create_token(api: &muster_tests::Api, role: &str, project: &str) -> String {
    let body = json!({"name": role, "role": role});
    let made = api.post(&format!("/api/v1/tokens?project={project}"), &body).await;
    made["secret"].as_str().unwrap().to_owned()
}

/// Sends a body that no operation accepts: an authorized request fails because of the body, or
/// finds nothing.
async fn send(api: &muster_tests::Api, operation: &Operation, query: &str) -> u16 {
    let body = json!({"no such field": true});
    let body: Option<&Value> = (operation.method != Method::GET).then_some(&body);
    let path = format!("{}{query}", operation.path);
    if ["stream_events", "stream_devices"].contains(&operation.id.as_str()) {
        return api.status(&path).await;
    }
    api.send(operation.method.clone(), &path, body).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_accepts_exactly_the_authorized_roles() {
    let system = System::start().await;
    let operations = operations();
    assert!(operations.len() > 25);
    let nobody = system.api.with_token("");
    let made_up = format!("mst_default_0198c0de70007abc8def0123456789ab_{}", "A".repeat(43));
    let stranger = system.api.with_token(&made_up);
    for operation in &operations {
        assert_eq!(send(&nobody, operation, "").await, 401, "{} without a token", operation.id);
        assert_eq!(
            send(&stranger, operation, "").await,
            401,
            "{} with a made-up token",
            operation.id
        );
    }
    for role in ALL_ROLES {
        let bearer = system.api.with_token(&create_token(&system.api, role, "default").await);
        for operation in &operations {
            let status = send(&bearer, operation, "").await;
            // Operations on server-wide data require a server-wide token.
            let server_wide =
                ["create_project", "replace_project", "change_project", "retry_dead_letter"];
            let other_project = server_wide.contains(&operation.id.as_str());
            if allowed(&operation.id).contains(role) && !other_project {
                assert!(!matches!(status, 401 | 403), "{} as {role}: {status}", operation.id);
            } else {
                // Before the body is read: the response to an invalid one would show no difference.
                assert_eq!(status, 403, "{} as {role}", operation.id);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_valid_only_for_its_own_project() {
    let system = System::start().await;
    for id in ["plant-a", "plant-b"] {
        system.api.post("/api/v1/projects", &json!({"id": id})).await;
    }
    let operations = operations();
    let in_project = || operations.iter().filter(|operation| operation.in_project);
    assert!(in_project().count() > 25);
    for role in ALL_ROLES {
        let bearer = system.api.with_token(&create_token(&system.api, role, "plant-a").await);
        for operation in in_project() {
            let status = send(&bearer, operation, "?project=plant-b").await;
            assert_eq!(status, 403, "{} in another project as {role}", operation.id);
            let own = send(&bearer, operation, "?project=plant-a").await;
            let is_allowed = allowed(&operation.id).contains(role);
            assert_eq!(own == 403, !is_allowed, "{} as {role}: {own}", operation.id);
            assert_ne!(own, 401, "{} as {role}", operation.id);
        }
    }
    let admin = system.api.with_token(&create_token(&system.api, "admin", "plant-a").await);
    let (status, _) = admin.send(Method::GET, "/api/v1/projects/plant-b", None).await;
    assert_eq!(status, 404, "it learns nothing of other projects");
    let own = admin.list("/api/v1/projects").await;
    assert_eq!(own.len(), 1, "{own:?}");
    let change = json!({"status": "archived"});
    let (status, _) = admin.send(Method::PATCH, "/api/v1/projects/plant-b", Some(&change)).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_check_if_match_and_repeated_writes_are_applied_once() {
    let system = System::start().await;
    let made = system.api.post("/api/v1/devices", &json!({"name": "robot"})).await;
    let path = format!("/api/v1/devices/{}", made["id"].as_str().unwrap());
    let labels = |value: &str| json!({"labels": {"site": value}});
    let (status, first) =
        system.api.send_with(Method::PATCH, &path, &labels("a"), &[("if-match", "\"1\"")]).await;
    assert_eq!(status, 200, "{first}");
    let (status, stale) =
        system.api.send_with(Method::PATCH, &path, &labels("b"), &[("if-match", "\"1\"")]).await;
    assert_eq!(status, 412, "{stale}");

    let key = [("idempotency-key", "once")];
    let body = json!({"name": "second"});
    let (_, one) = system.api.send_with(Method::POST, "/api/v1/devices", &body, &key).await;
    let (status, two) = system.api.send_with(Method::POST, "/api/v1/devices", &body, &key).await;
    assert_eq!((status, &one["id"]), (201, &two["id"]), "{two}");
    // The order of fields and white space make no difference; a value does.
    let other = json!({"name": "other"});
    let (status, problem) =
        system.api.send_with(Method::POST, "/api/v1/devices", &other, &key).await;
    assert_eq!((status, &problem["type"]), (422, &"/problems/idempotency-key-reused".into()));
    // Also for concurrent requests.
    let key = [("idempotency-key", "at-once")];
    let body = json!({"name": "third"});
    let send = || system.api.send_with(Method::POST, "/api/v1/devices", &body, &key);
    let (one, two, three) = tokio::join!(send(), send(), send());
    let ids = [&one.1["id"], &two.1["id"], &three.1["id"]];
    assert!(ids.iter().all(|id| id.is_string() && *id == ids[0]), "{one:?} {two:?} {three:?}");
    for number in 0..10 {
        let name = format!("device-{number}");
        let key = [("idempotency-key", name.as_str())];
        let body = json!({"name": name});
        let send = || system.api.send_with(Method::POST, "/api/v1/devices", &body, &key);
        let (one, two) = tokio::join!(send(), send());
        assert_eq!(one, two, "{name}");
        let path = format!("/api/v1/devices/{name}");
        let delete = || system.api.send_with(Method::DELETE, &path, &Value::Null, &key);
        let (one, two) = tokio::join!(delete(), delete());
        assert_eq!((one.0, &one), (200, &two), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_by_name_returns_the_first_result() {
    let system = System::start().await;
    let send = async |method: Method, path: &str, body: &Value, key: &str| {
        system.api.send_with(method, path, body, &[("idempotency-key", key)]).await
    };
    system.api.post("/api/v1/devices", &json!({"name": "robot"})).await;
    let rename = json!({"name": "arm"});
    let first = send(Method::PATCH, "/api/v1/devices/robot", &rename, "rename").await;
    assert_eq!(first.0, 200, "{}", first.1);
    let again = send(Method::PATCH, "/api/v1/devices/robot", &rename, "rename").await;
    assert_eq!(first, again, "a rename");
    let other = json!({"name": "leg"});
    let (status, _) = send(Method::PATCH, "/api/v1/devices/robot", &other, "rename").await;
    assert_eq!(status, 422, "another body with the key of the rename");

    let none = json!({});
    let first = send(Method::DELETE, "/api/v1/devices/arm", &none, "delete").await;
    assert_eq!(first.0, 200, "{}", first.1);
    // Another device has the name now, and the retry does not affect it.
    system.api.post("/api/v1/devices", &json!({"name": "arm"})).await;
    let again = send(Method::DELETE, "/api/v1/devices/arm", &none, "delete").await;
    assert_eq!(first, again, "a delete");
    let (status, _) = send(Method::DELETE, "/api/v1/devices/arm", &none, "another").await;
    assert_eq!(status, 200, "the second device was still there");

    for (path, body) in [
        ("/api/v1/enrollment-tokens", json!({"name": "line", "expires_in_seconds": 600})),
        ("/api/v1/tokens", json!({"name": "ci", "role": "viewer"})),
    ] {
        let first = send(Method::POST, path, &body, "token").await;
        assert_eq!(first.0, 201, "{}", first.1);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        assert_eq!(first, send(Method::POST, path, &body, "token").await, "{path}");
        let mut other = body.clone();
        other["name"] = "other".into();
        assert_eq!(send(Method::POST, path, &other, "token").await.0, 422, "{path}");
    }
}
