//! A cluster of three brokers: each accepts valid devices and refuses others, and one may fail.

use std::time::{Duration, Instant};

use muster_schemas::subjects::{EVENTS_STREAM, METRICS_STREAM};
use muster_tests::fleet::Fleet;
use muster_tests::sim::Enrolled;
use muster_tests::text::has_line;
use muster_tests::{SimDevice, wait};
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects as a device to one broker only.
async fn connect_to(
    fleet: &Fleet,
    enrolled: &Enrolled,
    broker: &str,
) -> Result<async_nats::Client, async_nats::ConnectError> {
    let key = enrolled.nats_key.clone();
    async_nats::ConnectOptions::with_jwt(enrolled.response.credentials.jwt.clone(), move |nonce| {
        let key = key.clone();
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    })
    .add_root_certificates(fleet.ca())
    .require_tls(true)
    .ignore_discovered_servers()
    .max_reconnects(1)
    .connect(broker)
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_disconnected_from_every_broker_within_five_seconds() {
    let fleet = Fleet::start_clustered().await;
    let token = fleet.api.enrollment_token(1).await;
    let device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "robot").await;
    let mut live = Vec::new();
    for broker in fleet.broker_urls() {
        live.push(connect_to(&fleet, &device.enrolled, &broker).await.unwrap());
    }
    let started_at = Instant::now();
    fleet.api.post("/api/v1/devices/robot/revoke", &json!({"reason": "stolen"})).await;
    wait::until("its connections to be closed", Duration::from_secs(5), || async {
        let closed = |nats: &async_nats::Client| {
            nats.connection_state() != async_nats::connection::State::Connected
        };
        live.iter().all(closed).then_some(())
    })
    .await;
    for broker in fleet.broker_urls() {
        let again = connect_to(&fleet, &device.enrolled, &broker).await;
        assert!(again.is_err(), "{broker} lets it in again");
    }
    assert!(started_at.elapsed() < Duration::from_secs(5), "{:?}", started_at.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_when_one_of_three_brokers_fails() {
    let mut fleet = Fleet::start_clustered().await;
    let token = fleet.api.enrollment_token(2).await;
    let mut one = SimDevice::join(&fleet.api, &fleet.ca(), &token, "one").await;
    let mut two = SimDevice::join(&fleet.api, &fleet.ca(), &token, "two").await;
    let jetstream = async_nats::jetstream::new(fleet.broker().await);
    for stream in [EVENTS_STREAM, METRICS_STREAM] {
        let stream = wait::until("the stream to be made", WAIT_TIMEOUT, || async {
            jetstream.get_stream(stream).await.ok()
        })
        .await;
        assert_eq!(stream.cached_info().config.num_replicas, 3, "{stream:?}");
    }
    for device in [&mut one, &mut two] {
        device.chain.record_many(20);
        device.sync(WAIT_TIMEOUT).await;
    }
    // Each broker stops in turn, the leader among them.
    for stopped in 0..3 {
        let child = match stopped {
            0 => fleet.nats.child(),
            more => fleet.more_brokers[more - 1].child(),
        };
        child.stop().await.unwrap();
        for device in [&mut one, &mut two] {
            device.chain.record_many(20);
            device.sync(WAIT_TIMEOUT).await;
        }
        child.restart().await.unwrap();
    }
    // With two of three unavailable there is no leader: a role that starts waits, and continues
    // when they are available.
    for broker in &fleet.more_brokers {
        broker.child().stop().await.unwrap();
    }
    let before = fleet.ingest.output().len();
    fleet.ingest.kill9_and_restart();
    wait::until("ingest to find no leader", WAIT_TIMEOUT, || async {
        let output = fleet.ingest.output();
        let has_error = |fields: &Value| fields["error"].is_string();
        has_line(&output[before..], "WARN", "muster", has_error).then_some(())
    })
    .await;
    for broker in &fleet.more_brokers {
        broker.child().restart().await.unwrap();
    }
    for device in [&mut one, &mut two] {
        device.chain.record_many(20);
        device.sync(WAIT_TIMEOUT).await;
        let path =
            format!("/api/v1/devices/{}/events?order=asc&type=DeviceConfigApplied", device.id());
        let logged = fleet.api.list(&path).await;
        let places: Vec<u64> =
            logged.iter().map(|event| event["data"]["version"].as_u64().unwrap()).collect();
        assert_eq!(places, (1..=100).collect::<Vec<_>>());
    }
    for name in ["one", "two"] {
        let path = format!("/api/v1/devices/{name}");
        wait::until("both online", WAIT_TIMEOUT, || async {
            (fleet.api.get(&path).await["status"] == "online").then_some(())
        })
        .await;
    }
}
