//! All kinds of enrollment: pending approval, similar to a known device, with the old key,
//! preregistered, revoked.

use std::time::{Duration, Instant};

use muster_schemas::wire::EnrollResponse;
use muster_schemas::{Hash, SigningKey};
use muster_tests::sim::{Enrolled, EnrollmentRequest, renew};
use muster_tests::{Api, SimDevice, System, wait};
use nkeys::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
const ENROLL: &str = "/api/v1/device/enroll";

/// A machine that can request enrollment.
struct Machine {
    key: SigningKey,
    nats_key: KeyPair,
    id: Option<Hash>,
    macs: Vec<Hash>,
}

impl Machine {
    fn new(id: Option<&str>) -> Self {
        Self {
            key: SigningKey::from_seed(&rand::random()),
            nats_key: KeyPair::new_user(),
            id: id.map(|id| Hash::of(id.as_bytes())),
            macs: Vec::new(),
        }
    }

    fn request_body(&self, token: &str, previous: Option<&Enrolled>) -> Value {
        let previous = previous
            .map(|enrolled| (&enrolled.key, &enrolled.response.project, enrolled.response.device));
        let Self { key, nats_key, id, macs } = self;
        let macs = macs.clone();
        EnrollmentRequest { key, nats_key, token, hostname: "robot", machine: *id, macs, previous }
            .body()
    }

    fn enrolled(&self, response: Value) -> Enrolled {
        let nats_key = KeyPair::from_seed(&self.nats_key.seed().unwrap()).unwrap();
        let response: EnrollResponse = serde_json::from_value(response).unwrap();
        Enrolled { key: self.key.clone(), nats_key: Arc::new(nats_key), response }
    }
}

async fn post_enrollment(api: &Api, body: &Value) -> (u16, Value) {
    api.with_token("").send(Method::POST, ENROLL, Some(body)).await
}

async fn create_token(api: &Api, more: Value) -> String {
    let mut body = json!({"name": "test", "max_uses": 9});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = api.post("/api/v1/enrollment-tokens", &body).await;
    made["secret"].as_str().unwrap().to_owned()
}

async fn status(api: &Api, device: &str, expected: &str) -> Value {
    wait::until(&format!("{device} to be {expected}"), WAIT_TIMEOUT, || async {
        let path = format!("/api/v1/devices/{device}");
        // The read model may not have it yet.
        let (_, found) = api.send(Method::GET, &path, None).await;
        (found["status"] == expected).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrollment_is_pending_until_an_operator_decides() {
    let system = System::start().await;
    let api = &system.api;
    let token =
        create_token(api, json!({"approval_required": true, "labels": {"site": "a"}})).await;
    let (good, bad) = (Machine::new(None), Machine::new(None));
    let (good_asks, bad_asks) = (good.request_body(&token, None), bad.request_body(&token, None));
    let (code, waits) = post_enrollment(api, &good_asks).await;
    assert_eq!((code, &waits["name"], &waits["like"]), (202, &json!("robot"), &Value::Null));
    assert_eq!(post_enrollment(api, &bad_asks).await.0, 202);
    assert_eq!(
        post_enrollment(api, &good_asks).await.1["device"],
        waits["device"],
        "asked again, it waits on"
    );

    let shown = status(api, "robot", "pending").await;
    let fingerprint = json!(good.key.thumbprint());
    assert_eq!(
        shown["pending_enrollment"]["fingerprint"], fingerprint,
        "to be compared with the machine's"
    );
    // Without approval the device gets no credentials.
    let enrolled = json!({"project": "default", "device": waits["device"]});
    let nonce = api.with_token("").post("/api/v1/device/nonce", &enrolled).await;
    assert!(nonce["nonce"].is_string());
    let device = waits["device"].as_str().unwrap().parse().unwrap();
    let rejection = renew(api, &good.key, &"default".parse().unwrap(), device).await;
    assert_eq!(rejection.0, 401, "{}", rejection.1);

    api.post("/api/v1/devices/robot/accept", &json!({})).await;
    api.post("/api/v1/devices/robot-2/reject", &json!({"reason": "nobody ordered it"})).await;
    let (code, joined) = post_enrollment(api, &good_asks).await;
    assert_eq!((code, &joined["name"]), (201, &json!("robot")), "{joined}");
    let device = SimDevice::connect(good.enrolled(joined), &system.ca()).await;
    let online = status(api, "robot", "online").await;
    assert_eq!(online["labels"], json!({"site": "a"}));
    let (code, problem) = post_enrollment(api, &bad_asks).await;
    assert_eq!(code, 403);
    assert!(problem["detail"].as_str().unwrap().contains("nobody ordered it"), "{problem}");
    let again = api.send(Method::POST, "/api/v1/devices/robot/accept", Some(&json!({}))).await;
    assert_eq!(again.0, 409, "{}", again.1);
    drop(device);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_similar_machine_becomes_the_same_device_only_by_an_operator_s_decision() {
    let system = System::start().await;
    let api = &system.api;
    let any = create_token(api, json!({})).await;
    let old = Machine::new(Some("machine 7"));
    let (code, joined) = post_enrollment(api, &old.request_body(&any, None)).await;
    assert_eq!(code, 201);
    let id = joined["device"].as_str().unwrap().to_owned();
    let first = SimDevice::connect(old.enrolled(joined), &system.ca()).await;
    api.patch(&format!("/api/v1/devices/{id}"), &json!({"labels": {"line": "3"}})).await;

    let new = Machine::new(Some("machine 7"));
    let asks = new.request_body(&any, None);
    let (code, waits) = post_enrollment(api, &asks).await;
    // The response does not reveal the similar device; the API shows it to an operator.
    assert_eq!((code, &waits["like"]), (202, &Value::Null), "{waits}");
    assert!(
        !waits.to_string().contains("\"robot\"") && !waits.to_string().contains(&id),
        "{waits}"
    );
    let waiting = waits["device"].as_str().unwrap();
    let shown = status(api, waiting, "pending").await;
    assert_eq!(shown["pending_enrollment"]["same_machine"]["id"], json!(id));

    let path = format!("/api/v1/devices/{waiting}/accept");
    api.post(&path, &json!({"replaces": "robot"})).await;
    let (code, joined) = post_enrollment(api, &asks).await;
    assert_eq!((code, &joined["device"]), (201, &json!(id)), "{joined}");
    assert!(joined["epoch"].as_u64() > Some(1));
    // The connection with the old key is closed.
    wait::until("the old connection to be closed", WAIT_TIMEOUT, || async {
        let state = first.nats.connection_state();
        (state != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    let mut second = SimDevice::connect(new.enrolled(joined), &system.ca()).await;
    second.chain.record_many(2);
    second.sync(WAIT_TIMEOUT).await;
    let shown = status(api, &id, "online").await;
    assert_eq!((&shown["name"], &shown["labels"]), (&json!("robot"), &json!({"line": "3"})));
    assert_eq!(api.list("/api/v1/devices").await.len(), 1, "nothing is left of the waiting one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reinstalled_machine_is_recognized_by_its_network_card() {
    let system = System::start().await;
    let api = &system.api;
    let any = create_token(api, json!({})).await;
    let with = |id: &str, macs: &[&str]| {
        let macs = macs.iter().map(|mac| Hash::of(mac.as_bytes())).collect();
        Machine { macs, ..Machine::new(Some(id)) }
    };
    let (code, first) =
        post_enrollment(api, &with("before", &["eth0", "wlan0"]).request_body(&any, None)).await;
    assert_eq!(code, 201, "{first}");
    // A new image has a new machine id; the network cards are the same.
    let (code, waits) =
        post_enrollment(api, &with("after", &["usb0", "wlan0"]).request_body(&any, None)).await;
    assert_eq!(code, 202, "{waits}");
    let shown = status(api, waits["device"].as_str().unwrap(), "pending").await;
    assert_eq!(shown["pending_enrollment"]["same_machine"]["id"], first["device"]);
    let (code, other) =
        post_enrollment(api, &with("another", &["eth1"]).request_body(&any, None)).await;
    assert_eq!(code, 201, "{other}");
    // Of a thousand addresses of one machine only a few are used, without a delay.
    let many: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["eth0"]).collect();
    let (code, liar) = post_enrollment(api, &with("liar", &many).request_body(&any, None)).await;
    assert_eq!(code, 201, "{liar}");
    // The identity hints of a deleted device are deleted.
    let id = first["device"].as_str().unwrap();
    api.send(Method::DELETE, &format!("/api/v1/devices/{id}"), None).await;
    let (code, again) =
        post_enrollment(api, &with("anew", &["eth0"]).request_body(&any, None)).await;
    assert_eq!(code, 201, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_key_or_a_device_token_or_a_registered_key_continues_the_same_device() {
    let system = System::start().await;
    let api = &system.api;
    let any = create_token(api, json!({})).await;
    let machine = Machine::new(Some("machine 8"));
    let (_, joined) = post_enrollment(api, &machine.request_body(&any, None)).await;
    let before = machine.enrolled(joined);
    let id = json!(before.response.device);

    // Enrollment with a proof of the old key.
    let fresh = Machine::new(Some("machine 8"));
    let (code, joined) = post_enrollment(api, &fresh.request_body(&any, Some(&before))).await;
    assert_eq!((code, &joined["device"]), (201, &id), "{joined}");
    // The old key is valid only once: the new key has replaced it.
    let thief = Machine::new(Some("machine 8"));
    let (code, problem) = post_enrollment(api, &thief.request_body(&any, Some(&before))).await;
    assert_eq!(code, 401, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("previous:"), "{problem}");
    // A proof for another request is refused.
    let mut stolen = fresh.request_body(&any, Some(&fresh.enrolled(joined)));
    stolen["request"] = thief.request_body(&any, None)["request"].clone();
    stolen["nats_proof"] = thief.request_body(&any, None)["nats_proof"].clone();
    assert_eq!(post_enrollment(api, &stolen).await.0, 401);

    // A token for this device.
    let only = create_token(api, json!({"device": id, "max_uses": 1})).await;
    let other = Machine::new(None);
    let (code, joined) = post_enrollment(api, &other.request_body(&only, None)).await;
    assert_eq!((code, &joined["device"]), (201, &id), "{joined}");

    // A device that was preregistered by name and key.
    let expected = Machine::new(None);
    let body = json!({"name": "gateway", "labels": {"site": "b"},
        "fingerprint": expected.key.thumbprint()});
    let device = api.post("/api/v1/devices", &body).await;
    let (code, joined) = post_enrollment(api, &expected.request_body(&any, None)).await;
    assert_eq!((code, &joined["device"], &joined["name"]), (201, &device["id"], &json!("gateway")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_disconnected_within_seconds_and_keeps_its_name_and_settings() {
    let system = System::start().await;
    let api = &system.api;
    let any = create_token(api, json!({"labels": {"site": "a"}})).await;
    let machine = Machine::new(None);
    let (_, joined) = post_enrollment(api, &machine.request_body(&any, None)).await;
    let enrolled = machine.enrolled(joined);
    let id = enrolled.response.device.to_string();
    let device = SimDevice::connect(enrolled, &system.ca()).await;
    status(api, "robot", "online").await;

    let started_at = Instant::now();
    api.post("/api/v1/devices/robot/revoke", &json!({"reason": "stolen from the van"})).await;
    wait::until("the connection to be closed", WAIT_TIMEOUT, || async {
        let state = device.nats.connection_state();
        (state != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    println!("the connection was closed {:?} after the revocation", started_at.elapsed());
    let (key, response) = (&device.enrolled.key, &device.enrolled.response);
    assert_eq!(renew(api, key, &response.project, response.device).await.0, 401);
    let shown = status(api, &id, "revoked").await;
    assert!(shown["revoked_at"].is_string());
    // Neither the old key nor the device's previous token allows it to enroll again.
    let back = Machine::new(None);
    assert_eq!(post_enrollment(api, &back.request_body(&any, Some(&device.enrolled))).await.0, 401);

    let only = create_token(api, json!({"device": id, "max_uses": 1})).await;
    let (code, joined) = post_enrollment(api, &back.request_body(&only, None)).await;
    assert_eq!((code, &joined["device"], &joined["name"]), (201, &json!(id), &json!("robot")));
    let _again = SimDevice::connect(back.enrolled(joined), &system.ca()).await;
    let shown = status(api, &id, "online").await;
    assert_eq!(shown["labels"], json!({"site": "a"}));
    assert!(shown["revoked_at"].is_null());
}
