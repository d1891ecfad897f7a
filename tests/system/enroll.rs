//! A device enrolls, records, is shown, is configured, and is revoked.

use std::time::Duration;

use muster_tests::{SimDevice, System, wait};
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_device_s_events_are_in_the_log_once_and_in_order() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "Robot_7").await;
    assert_eq!(device.enrolled.response.name.as_str(), "robot-7");

    device.chain.record_many(200);
    device.sync(WAIT_TIMEOUT).await;
    // All events again, as after a lost ack: nothing is duplicated.
    for event in device.chain.events.clone() {
        device.publish_raw(event.bytes).await;
    }
    device.chain.record_many(1);
    device.sync(WAIT_TIMEOUT).await;

    let path = format!("/api/v1/devices/{}/events?order=asc", device.id());
    let events = wait::until("the timeline", WAIT_TIMEOUT, || async {
        let events = system.api.list(&path).await;
        (events.iter().filter(|event| event["sealed"] == true).count() == 201).then_some(events)
    })
    .await;
    let versions: Vec<u64> = events
        .iter()
        .filter(|event| event["type"] == "DeviceConfigApplied")
        .filter_map(|event| event["data"]["version"].as_u64())
        .collect();
    assert_eq!(versions, (1..=201).collect::<Vec<_>>());

    // The token has no uses left.
    let (_, other) = (0, Enrollment { system: &system, token: &token }.try_enroll().await);
    assert_eq!(other.0, 403, "{}", other.1);
    assert_eq!(other.1["type"], "/problems/forbidden", "{}", other.1);
    let tokens = system.api.list("/api/v1/enrollment-tokens").await;
    assert_eq!(tokens[0]["status"], "used_up", "{tokens:?}");
}

struct Enrollment<'a> {
    system: &'a System,
    token: &'a str,
}

impl Enrollment<'_> {
    async fn try_enroll(&self) -> (u16, Value) {
        let key = muster_schemas::SigningKey::from_seed(&[9; 32]);
        let nats_key = nkeys::KeyPair::new_user();
        let body = muster_tests::sim::enroll_body(&key, &nats_key, self.token, "other");
        self.system
            .api
            .with_token("")
            .send(Method::POST, "/api/v1/device/enroll", Some(&body))
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_follows_the_connection_within_seconds() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let device = SimDevice::join(&system.api, &system.ca(), &token, "robot").await;
    let status = |expected: &'static str| {
        let api = system.api.clone();
        let path = format!("/api/v1/devices/{}", device.id());
        async move {
            wait::until(expected, WAIT_TIMEOUT, || async {
                (api.get(&path).await["status"] == expected).then_some(())
            })
            .await;
        }
    };
    status("online").await;
    let SimDevice { nats, enrolled, .. } = device;
    nats.drain().await.unwrap();
    drop(nats);
    let path = format!("/api/v1/devices/{}", enrolled.response.device);
    wait::until("offline", WAIT_TIMEOUT, || async {
        (system.api.get(&path).await["status"] == "offline").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_device_is_disconnected_and_its_name_is_free() {
    let system = System::start().await;
    let token = system.api.enrollment_token(2).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "robot").await;
    device.chain.record_many(3);
    device.sync(WAIT_TIMEOUT).await;
    let path = format!("/api/v1/devices/{}", device.id());
    let (status, response) = system.api.send(Method::DELETE, &path, None).await;
    assert_eq!(status, 200, "{response}");

    // The live connection is closed, and the device cannot reconnect.
    wait::until("the connection to be closed", WAIT_TIMEOUT, || async {
        let state = device.nats.connection_state();
        (state != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    let response = &device.enrolled.response;
    let key = &device.enrolled.key;
    let renewed =
        muster_tests::sim::renew(&system.api, key, &response.project, response.device).await;
    assert_eq!(renewed.0, 401, "{}", renewed.1);

    let again = SimDevice::join(&system.api, &system.ca(), &token, "robot").await;
    assert_eq!(again.enrolled.response.name.as_str(), "robot");
    let deleted = wait::until("the tombstone", WAIT_TIMEOUT, || async {
        let found = system.api.get(&path).await;
        (found["status"] == "deleted").then_some(found)
    })
    .await;
    assert!(deleted["deleted_at"].is_string());
    assert!(system.api.list(&format!("{path}/events")).await.len() >= 6, "its history stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_renewed_with_the_signing_key() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let enrolled = muster_tests::sim::enroll(&system.api, &token, "robot").await;
    let response = &enrolled.response;
    let renewed =
        muster_tests::sim::renew(&system.api, &enrolled.key, &response.project, response.device)
            .await;
    assert_eq!(renewed.0, 200, "{}", renewed.1);
    assert!(renewed.1["jwt"].as_str().is_some_and(|jwt| jwt.starts_with("eyJ")));
    let other = muster_schemas::SigningKey::from_seed(&[3; 32]);
    let rejection =
        muster_tests::sim::renew(&system.api, &other, &response.project, response.device).await;
    assert_eq!(rejection.0, 401, "{}", rejection.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_enrollment_response_can_be_requested_again() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let key = muster_schemas::SigningKey::from_seed(&[5; 32]);
    let nats_key = nkeys::KeyPair::new_user();
    let body = muster_tests::sim::enroll_body(&key, &nats_key, &token, "robot");
    let open = system.api.with_token("");
    let first = open.post("/api/v1/device/enroll", &body).await;
    let second = open.post("/api/v1/device/enroll", &body).await;
    assert_eq!(first["device"], second["device"]);
    let devices = wait::until("the read model to know a device", WAIT_TIMEOUT, || async {
        Some(system.api.list("/api/v1/devices").await).filter(|devices| !devices.is_empty())
    })
    .await;
    assert_eq!(devices.len(), 1);
    let name = json!("robot");
    assert_eq!(second["name"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_signs_from_the_next_event_on() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "robot").await;
    device.chain.record_many(2);
    device.sync(WAIT_TIMEOUT).await;
    let new_key = muster_schemas::SigningKey::from_seed(&rand::random());
    let chain = &mut device.chain;
    let statement =
        muster_schemas::codec::encode(&(chain.device, chain.epoch, chain.key.thumbprint()));
    let rotation = muster_schemas::events::DeviceKeyRotated {
        signing_key: new_key.public().to_cose_key(),
        proof: new_key.seal(muster_schemas::cose::Kind::Rotation, statement),
    };
    chain.record(&rotation.into());
    device.sync(WAIT_TIMEOUT).await;
    let old_key = std::mem::replace(&mut device.chain.key, new_key.clone());
    device.chain.record_many(3);
    device.sync(WAIT_TIMEOUT).await;

    let response = &device.enrolled.response;
    let renew =
        |key| muster_tests::sim::renew(&system.api, key, &response.project, response.device);
    assert_eq!(renew(&new_key).await.0, 200);
    assert_eq!(renew(&old_key).await.0, 401);
    assert!(system.api.list("/api/v1/dead-letters").await.is_empty());
}
