//! Limits of ids from outside, generic tokens and the project `system`.

use std::time::Duration;

use axum::extract::FromRequestParts;
use muster_api::IdempotencyKey;
use muster_api::auth::Principal;
use muster_schemas::cose::Kind;
use muster_schemas::events::{Cause, Role};
use muster_schemas::wire::{
    ApiTokenText, EnrollProof, EnrollRequest, EnrollResponse, Hello, NewEpoch,
};
use muster_schemas::{Seq, SigningKey, codec};
use muster_tests::{Api, SimDevice, System, wait};
use nkeys::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

async fn create_token(api: &Api, more: Value) -> String {
    let mut body = json!({"name": "test"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = api.post("/api/v1/enrollment-tokens", &body).await;
    made["secret"].as_str().unwrap().to_owned()
}

async fn status(api: &Api, device: &str, expected: &str) {
    let path = format!("/api/v1/devices/{device}");
    wait::until(expected, WAIT_TIMEOUT, || async {
        (api.get(&path).await["status"] == expected).then_some(())
    })
    .await;
}

/// Requests enrollment with a key, as a machine with these labels.
async fn request_enrollment(
    api: &Api,
    key: &SigningKey,
    token: &str,
    labels: &[(&str, &str)],
) -> (u16, Value) {
    let nats_key = KeyPair::new_user();
    let proof = EnrollProof {
        token: token.to_owned(),
        signing_key: key.public().to_cose_key(),
        nats_key: nats_key.public_key(),
        name: None,
        labels: labels
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap()))
            .collect(),
        hostname: Some("robot".into()),
        machine: None,
        macs: Vec::new(),
        nonce: Uuid::new_v4(),
    };
    let sealed = key.seal(Kind::Enroll, codec::encode(&proof));
    let base64 = &data_encoding::BASE64URL_NOPAD;
    let body = json!(EnrollRequest {
        request: base64.encode(&sealed),
        nats_proof: base64.encode(&nats_key.sign(&sealed).unwrap()),
        previous: None,
    });
    api.with_token("").send(Method::POST, "/api/v1/device/enroll", Some(&body)).await
}

/// The append id of a request with this idempotency key.
async fn append_id(api: &Api, path: &str, key: &str) -> Uuid {
    let request = axum::http::Request::post(path).header("idempotency-key", key).body(()).unwrap();
    let (mut parts, ()) = request.into_parts();
    let token: ApiTokenText = api.token.parse().unwrap();
    let admin = Principal { token: token.id, role: Role::Admin, project: None };
    IdempotencyKey::from_request_parts(&mut parts, &()).await.unwrap().append_id(&admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_id_claimed_by_a_device_does_not_prevent_its_revocation() {
    let system = System::start().await;
    let api = &system.api;
    let enrollment = api.enrollment_token(1).await;
    let device = SimDevice::join(api, &system.ca(), &enrollment, "robot").await;
    let path = format!("/api/v1/devices/{}/revoke", device.id());
    let hello = Hello {
        new_epoch: Some(NewEpoch {
            cause: Cause::HistoryLost,
            seq: Seq::ZERO,
            hash: None,
            request: append_id(api, &path, "operator").await,
        }),
        ..device.hello()
    };
    let welcome = device.send_hello(&hello).await;
    assert!(!welcome.unwrap().is_empty());
    let granted = wait::until("the new epoch", WAIT_TIMEOUT, || async {
        let events = api.list("/api/v1/events?type=DeviceEpochGranted").await;
        events.into_iter().next()
    })
    .await;
    assert_eq!(granted["data"]["epoch"], 2);

    let revoke = json!({"reason": "stolen"});
    let (code, done) =
        api.send_with(Method::POST, &path, &revoke, &[("Idempotency-Key", "operator")]).await;
    assert_eq!(code, 200, "{done}");
    status(api, &device.id(), "revoked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_cannot_re_enroll_with_its_key_and_a_generic_token() {
    let system = System::start().await;
    let api = &system.api;
    let any = create_token(api, json!({"max_uses": 20})).await;
    // One device is preregistered by its key, the other is not.
    let (expected, plain) =
        (SigningKey::from_seed(&rand::random()), SigningKey::from_seed(&rand::random()));
    let body = json!({"name": "gateway", "fingerprint": expected.thumbprint()});
    let device = api.post("/api/v1/devices", &body).await;
    for key in [&expected, &plain] {
        let (code, joined) = request_enrollment(api, key, &any, &[]).await;
        assert_eq!(code, 201, "{joined}");
        let id = joined["device"].as_str().unwrap().to_owned();
        api.post(&format!("/api/v1/devices/{id}/revoke"), &json!({})).await;
        let (code, problem) = request_enrollment(api, key, &any, &[]).await;
        assert_eq!(code, 403, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("revoked"), "{problem}");
        status(api, &id, "revoked").await;
        // A token for this device reverts the revocation.
        let only = create_token(api, json!({"device": id})).await;
        let (code, joined) = request_enrollment(api, key, &only, &[]).await;
        assert_eq!((code, joined["device"].as_str()), (201, Some(id.as_str())), "{joined}");
    }
    assert!(device["id"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_cannot_replay_its_enrollment_request() {
    let system = System::start().await;
    let api = &system.api;
    let any = create_token(api, json!({"max_uses": 5})).await;
    let (key, nats_key) = (SigningKey::from_seed(&rand::random()), nkeys::KeyPair::new_user());
    let body = muster_tests::sim::enroll_body(&key, &nats_key, &any, "replayed");
    let machine = api.with_token("");
    let enroll = async || machine.send(Method::POST, "/api/v1/device/enroll", Some(&body)).await;
    let (code, joined) = enroll().await;
    assert_eq!(code, 201, "{joined}");
    // The response may have been lost: the same request returns the same device.
    assert_eq!(enroll().await.1["device"], joined["device"]);
    let id = joined["device"].as_str().unwrap();
    api.post(&format!("/api/v1/devices/{id}/revoke"), &json!({})).await;
    let (code, problem) = enroll().await;
    assert_eq!(code, 403, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_sets_only_the_labels_that_its_token_allows() {
    let system = System::start().await;
    let api = &system.api;
    let brought = [("env", "prod"), ("rack", "7"), ("site", "mine")];
    for (body, labels, dropped) in [
        (json!({}), json!({}), json!(["env", "rack", "site"])),
        (
            json!({"labels": {"site": "a"}, "allowed_labels": ["rack", "site"]}),
            json!({"rack": "7", "site": "a"}),
            json!(["env"]),
        ),
    ] {
        let enrollment = create_token(api, body).await;
        let key = SigningKey::from_seed(&rand::random());
        let (code, joined) = request_enrollment(api, &key, &enrollment, &brought).await;
        assert_eq!((code, &joined["dropped_labels"]), (201, &dropped), "{joined}");
        let path = format!("/api/v1/devices/{}", joined["device"].as_str().unwrap());
        let shown = wait::until("the device", WAIT_TIMEOUT, || async {
            let (code, shown) = api.send(Method::GET, &path, None).await;
            (code == 200).then_some(shown)
        })
        .await;
        assert_eq!(shown["labels"], labels);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_server_wide_tokens_can_be_created_in_the_system_project() {
    let system = System::start().await;
    let api = &system.api;
    let name = json!({"name": "x"});
    let target = json!({"target": {"kind": "selector", "selector": ""}, "action": {"kind": "exec", "argv": ["id"]}});
    for (path, body) in [
        ("/api/v1/devices", &name),
        ("/api/v1/enrollment-tokens", &name),
        ("/api/v1/tokens", &json!({"name": "x", "role": "viewer"})),
        ("/api/v1/operations", &target),
    ] {
        let path = format!("{path}?project=system");
        let (code, problem) = api.send(Method::POST, &path, Some(body)).await;
        assert_eq!(code, 400, "{path}: {problem}");
    }
    let body = json!({"name": "all", "role": "admin", "server_wide": true});
    let made = api.post("/api/v1/tokens", &body).await;
    let all = api.with_token(made["secret"].as_str().unwrap());
    assert_eq!(all.send(Method::GET, "/api/v1/projects", None).await.0, 200);
    // An admin of a project cannot create one.
    let own = api.post("/api/v1/tokens", &json!({"name": "own", "role": "admin"})).await;
    let own = api.with_token(own["secret"].as_str().unwrap());
    assert_eq!(own.send(Method::POST, "/api/v1/tokens", Some(&body)).await.0, 403);
    // It is listed and revoked in the project `system`.
    let path = format!("/api/v1/tokens/{}?project=system", made["id"].as_str().unwrap());
    assert_eq!(api.send(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(all.send(Method::GET, "/api/v1/projects", None).await.0, 401);
}

/// The response to an enrollment keeps the format that older agents parse.
#[test]
fn a_response_without_dropped_labels_has_no_additional_field() {
    let text = json!({
        "project": "default", "device": Uuid::from_u128(1), "name": "robot", "epoch": 1,
        "operation_key": "", "credentials": {"jwt": "", "expires_at": "2026-11-23T09:00:00Z",
            "servers": [], "server_time": "2026-11-23T08:00:00Z"}
    });
    let response: EnrollResponse = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(serde_json::to_value(response).unwrap(), text);
}
