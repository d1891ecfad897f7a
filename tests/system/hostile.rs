//! Garbage, forgeries, and devices that access the data of others. In each case the next valid
//! message is processed.

use std::time::Duration;

use muster_schemas::envelope::MAX_EVENT_BYTES;
use muster_schemas::events::{DeviceConfigApplied, DeviceInventoryReported};
use muster_schemas::metrics::MAX_BATCH_BYTES;
use muster_schemas::{ConfigVersion, Event, SigningKey, Timestamp};
use muster_tests::{SimDevice, System, wait};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

fn small(version: u64) -> Event {
    DeviceConfigApplied { version: ConfigVersion(version), errors: Default::default() }.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unattributable_message_becomes_a_dead_letter_and_blocks_no_other() {
    let system = System::start().await;
    let token = system.api.enrollment_token(2).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "good").await;
    let other = SimDevice::join(&system.api, &system.ca(), &token, "other").await;

    device.publish_raw(bytes::Bytes::from_static(b"garbage")).await;
    device.publish_raw(bytes::Bytes::new()).await;
    let forged = device.chain.next_envelope(&small(1)).seal(&SigningKey::from_seed(&[8; 32]));
    device.publish_raw(forged.into()).await;
    let foreign = other.chain.next_envelope(&small(1)).seal(&other.enrolled.key);
    device.publish_raw(foreign.into()).await;
    let large = bytes::Bytes::from(vec![0xa0; MAX_EVENT_BYTES]);
    device.publish_raw(large).await;

    device.chain.record_many(5);
    device.sync(WAIT_TIMEOUT).await;
    let causes = wait::until("the dead letters", WAIT_TIMEOUT, || async {
        let dead_letters = system.api.list("/api/v1/dead-letters").await;
        let mut causes: Vec<String> = dead_letters
            .iter()
            .map(|dead_letter| dead_letter["cause"].as_str().unwrap_or_default().to_owned())
            .collect();
        causes.sort();
        (causes.len() >= 5).then_some(causes)
    })
    .await;
    assert_eq!(
        causes,
        ["foreign_subject", "no_envelope", "no_envelope", "no_envelope", "unknown_key"]
    );
}

/// The broker's memory depends on the largest stored message: see `ingest/src/streams.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_maximum_size_is_not_stored() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "large").await;

    for (subject, maximum) in [("evt", MAX_EVENT_BYTES), ("met.backfill", MAX_BATCH_BYTES)] {
        let subject = format!("muster.default.{}.{subject}", device.id());
        let publish = |bytes: usize| {
            device.publisher.publish(subject.clone(), bytes::Bytes::from(vec![0xa0; bytes]))
        };
        publish(maximum).await.unwrap();
        publish(maximum + 2048).await.unwrap_err();
    }
    // The connection and the next message are not affected.
    device.chain.record_many(1);
    device.sync(WAIT_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signed_event_is_appended_and_anomalies_are_flagged() {
    let system = System::start().await;
    let token = system.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&system.api, &system.ca(), &token, "odd").await;

    let mut garbage = device.chain.next_envelope(&small(1));
    garbage.data = vec![0xff; 64];
    device.chain.seal(&garbage);
    let mut unknown = device.chain.next_envelope(&small(2));
    unknown.kind = "DeviceDanced".to_owned();
    device.chain.seal(&unknown);
    // {"agent_version": …} twice, then a nesting depth of a thousand.
    let mut twice = device.chain.next_envelope(&DeviceInventoryReported::default().into());
    twice.data = b"\xa2\x6dagent_version\x61a\x6dagent_version\x61b".to_vec();
    device.chain.seal(&twice);
    let mut deep = device.chain.next_envelope(&small(3));
    deep.data = vec![0x81; 1000];
    device.chain.seal(&deep);
    let mut trailing = device.chain.next_envelope(&small(4));
    trailing.data.push(0);
    device.chain.seal(&trailing);
    for time in [Timestamp(0), Timestamp(4_102_444_800_000_001), Timestamp(i64::MIN)] {
        let mut odd = device.chain.next_envelope(&small(5));
        odd.time = time;
        device.chain.seal(&odd);
    }
    device.chain.record(&small(9));
    device.sync(WAIT_TIMEOUT).await;

    let path = format!("/api/v1/devices/{}", device.id());
    let shown = wait::until("the flags", WAIT_TIMEOUT, || async {
        let shown = system.api.get(&path).await;
        (shown["config"]["applied_version"] == 9).then_some(shown)
    })
    .await;
    assert_eq!(shown["flags"]["unreadable_count"], 5, "{shown}");
    let events = system.api.list(&format!("{path}/events?order=asc")).await;
    let unreadable = events.iter().filter(|event| event["type"] == "DeviceEventUnreadable").count();
    assert_eq!(unreadable, 5);
    assert_eq!(events.iter().filter(|event| event["time_implausible"] == true).count(), 3);
}

/// Connects with a device's own credentials; returns the client, and a list to which the broker's
/// refusals are added.
async fn connect_unrestricted(
    system: &System,
    device: &SimDevice,
) -> (async_nats::Client, Refusals) {
    let refusals = Refusals::default();
    let received = refusals.clone();
    let key = device.enrolled.nats_key.clone();
    let credentials = &device.enrolled.response.credentials;
    let servers: Vec<String> =
        credentials.servers.iter().map(|server| server.replace("0.0.0.0", "127.0.0.1")).collect();
    let client = async_nats::ConnectOptions::with_jwt(credentials.jwt.clone(), move |nonce| {
        let key = key.clone();
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    })
    .add_root_certificates(system.ca())
    .require_tls(true)
    .event_callback(move |event| {
        let received = received.clone();
        async move { received.lock().unwrap().push(event.to_string()) }
    })
    .connect(servers)
    .await
    .unwrap();
    (client, refusals)
}

type Refusals = std::sync::Arc<std::sync::Mutex<Vec<String>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_can_use_only_its_own_subjects() {
    let system = System::start().await;
    let token = system.api.enrollment_token(2).await;
    system.api.post("/api/v1/projects", &serde_json::json!({"id": "other"})).await;
    let mut one = SimDevice::join(&system.api, &system.ca(), &token, "one").await;
    let two = SimDevice::join(&system.api, &system.ca(), &token, "two").await;
    let (own, victim) = (one.id(), two.id());
    let mut forged = two.chain.clone();
    forged.record_many(1);
    let (client, refusals) = connect_unrestricted(&system, &one).await;

    let mut published = vec![
        format!("evt.0.default.{victim}"),
        format!("met.0.default.{victim}.live.host"),
        format!("_INBOX.muster.default.{victim}.x"),
        format!("muster.default.{own}"),
        format!("muster.default.{own}.ack"),
        format!("muster.default.{own}.cmd"),
        format!("muster.default.{own}.ch.1.down"),
        format!("muster.default.{own}.stored.evt"),
        format!("muster.default.{own}.met.live.invented"),
        format!("muster.default.{own}.met.live.{}", "x".repeat(500)),
        format!("muster.default.{own}.met.live"),
        format!("muster.default.{own}.req.invented"),
        format!("muster.other.{own}.evt"),
        format!("muster.other.{victim}.evt"),
        "$JS.API.STREAM.DELETE.EVENTS".to_owned(),
        "$JS.API.STREAM.PURGE.METRICS".to_owned(),
        "$JS.API.CONSUMER.CREATE.EVENTS".to_owned(),
        "$JS.ACK.EVENTS.evt-0.1.1.1.1.1".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
        "$SYS.REQ.CLAIMS.UPDATE".to_owned(),
        "anything".to_owned(),
    ];
    for what in
        ["evt", "met.live.host", "met.backfill", "req.hello", "ch.1.up", "ack", "cmd", "stored.evt"]
    {
        published.push(format!("muster.default.{victim}.{what}"));
    }
    let mut subscribed = vec![
        ">".to_owned(),
        "*".to_owned(),
        "muster.>".to_owned(),
        "muster.default.*.cmd".to_owned(),
        "muster.*.*.evt".to_owned(),
        "evt.>".to_owned(),
        "met.>".to_owned(),
        "_INBOX.>".to_owned(),
        "_INBOX.muster.>".to_owned(),
        format!("_INBOX.muster.default.{victim}.>"),
        format!("muster.default.{own}.>"),
        format!("muster.default.{own}.evt"),
        "$JS.>".to_owned(),
        "$SYS.>".to_owned(),
    ];
    for what in ["cmd", "ack", "ch.*.down", "evt", ">"] {
        subscribed.push(format!("muster.default.{victim}.{what}"));
    }
    let before = system.api.get("/api/v1/log/head").await["position"].as_u64();
    for subject in &published {
        client.publish(subject.clone(), forged.events[0].bytes.clone()).await.unwrap();
    }
    let mut subscriptions = Vec::new();
    for subject in &subscribed {
        subscriptions.push(client.subscribe(subject.clone()).await.unwrap());
        let queue = client.queue_subscribe(subject.clone(), "command".to_owned()).await;
        subscriptions.push(queue.unwrap());
    }
    client.flush().await.unwrap();
    // The broker refused each subject by name.
    wait::until("every refusal", WAIT_TIMEOUT, || async {
        let refusals = refusals.lock().unwrap().join("\n").to_lowercase();
        let missing = |kind: &str, subject: &String| {
            !refusals.contains(&format!("{kind} to \"{}\"", subject.to_lowercase()))
        };
        let publish = published.iter().filter(|subject| missing("publish", subject));
        let subscribe = subscribed.iter().filter(|subject| missing("subscription", subject));
        let open: Vec<&String> = publish.chain(subscribe).collect();
        if !open.is_empty() && refusals.len() > 10_000 {
            eprintln!("not refused yet: {open:?}");
        }
        open.is_empty().then_some(())
    })
    .await;

    // The device's own subjects still work, and none of these messages was delivered.
    one.chain.record_many(1);
    one.sync(WAIT_TIMEOUT).await;
    let after = system.api.get("/api/v1/log/head").await["position"].as_u64();
    assert!(before < after);
    let events = system.api.list("/api/v1/events?order=asc").await;
    assert!(!events.iter().any(|event| {
        event["stream"].as_str().is_some_and(|stream| stream.contains(&victim))
            && event["sealed"] == true
    }));
    assert!(two.ack().is_none());
    for mut subscription in subscriptions {
        let came = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut subscription));
        assert!(!matches!(came, Some(Some(_))), "{came:?}");
    }
}
