//! Every batch that the broker has confirmed reaches the metric store, even after a long outage of
//! the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use muster_backing::influx::{InfluxDb, InfluxOptions};
use muster_channel::{PublishError, Publisher};
use muster_eventlog::{Append, Expected, NewEvent};
use muster_ingest::metrics::reader::{self, ReaderOptions};
use muster_ingest::metrics::{DeviceLimits, MetricBuckets, MetricSink, SinkSettings};
use muster_ingest::streams;
use muster_metric_store::InfluxClient;
use muster_schemas::events::DeviceRegistered;
use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::subjects::{ALL_METRICS, DeviceSubjects, METRICS_STREAM, METRICS_TRANSFORM};
use muster_schemas::{DeviceId, ProjectId, StreamName, StreamVersion, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::Backing;

const SMALL_STREAM_BYTES: i64 = 200_000;

/// Creates the stream with the configuration of an older release.
async fn create_older_stream(jetstream: &jetstream::Context) {
    let config = stream::Config {
        name: METRICS_STREAM.into(),
        subjects: vec![ALL_METRICS.into()],
        subject_transform: Some(stream::SubjectTransform {
            source: ALL_METRICS.into(),
            destination: METRICS_TRANSFORM.into(),
        }),
        max_age: Duration::from_secs(72 * 3600),
        max_bytes: SMALL_STREAM_BYTES,
        discard: stream::DiscardPolicy::Old,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
}

async fn register(backing: &Backing, n: u128) -> DeviceId {
    let device = DeviceId(Uuid::from_u128(n));
    let name = format!("robot-{n}").parse().unwrap();
    let event = DeviceRegistered { name, labels: Default::default(), fingerprint: None }.into();
    let event = NewEvent::server(&event, Timestamp(0));
    let append = Append::by_actor("test").stream(
        StreamName::Device(device),
        Expected::Version(StreamVersion::ZERO),
        vec![event],
    );
    backing.log.append(&ProjectId::default_project(), append).await.unwrap();
    device
}

/// The number of values of the field `n` in the store.
async fn count(influx: &InfluxDb) -> u64 {
    let client = InfluxClient::new(influx.store_settings().clone()).unwrap();
    let rows = client.query("SELECT count(n) FROM sim").await.unwrap_or_default();
    let value = rows.first().and_then(|row| row.values.first()?.get(1)?.as_u64());
    value.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_rejects_messages_and_loses_no_accepted_one() {
    let backing = Backing::start(json!({})).await;
    let dir = tempfile::tempdir().unwrap();
    let influx = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap();
    let nats = backing.role().await;
    let jetstream = jetstream::new(nats.clone());
    create_older_stream(&jetstream).await;
    streams::ensure(&nats, muster_ingest::streams::Copies(1)).await.unwrap();
    let config = jetstream.get_stream(METRICS_STREAM).await.unwrap().cached_info().config.clone();
    assert_eq!(config.discard, stream::DiscardPolicy::New);
    assert_eq!((config.max_age, config.max_bytes), (Duration::ZERO, SMALL_STREAM_BYTES));

    let devices = [register(&backing, 1).await, register(&backing, 2).await];
    let client = Arc::new(InfluxClient::new(influx.store_settings().clone()).unwrap());
    let settings = SinkSettings {
        max_delay: Duration::from_millis(500),
        max_held_bytes: 16 * 1024,
        ..SinkSettings::default()
    };
    let (sink, _task) = MetricSink::start(client, settings);
    // The points of this test are not recent, and it sends at the maximum rate.
    let ever = Duration::from_secs(u32::MAX.into());
    let limits = DeviceLimits {
        max_age: ever,
        max_ahead: ever,
        messages_per_second: 10_000,
        ..DeviceLimits::default()
    };
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let options = ReaderOptions {
        log: backing.log.clone(),
        sink,
        buckets: MetricBuckets::shared(),
        copies: muster_ingest::streams::Copies(1),
        limits,
    };
    tokio::spawn(reader::run(options, nats.clone(), stop));

    // Like the agent: a batch is deleted when the broker has confirmed it.
    let mut publishers = Vec::new();
    for device in devices {
        let stored = DeviceSubjects::new(&ProjectId::default_project(), device).stored();
        let publisher = Publisher::new(nats.clone(), stored, Duration::from_secs(1));
        publishers.push(publisher.await.unwrap());
    }
    let publish = async |number: i64| {
        let index = usize::try_from(number % 2).unwrap();
        let device = devices[index];
        let subjects = DeviceSubjects::new(&ProjectId::default_project(), device);
        let text = muster_schemas::metrics::FieldValue::Text("x".repeat(300));
        let point = Point::new("sim").field("n", number).field("text", text);
        let time = Timestamp(1_795_420_800_000_000 + number);
        let batch = MetricBatch { time, points: vec![point] }.encode();
        publishers[index].publish(subjects.live_metrics("host"), batch.into()).await
    };
    for number in 0..100 {
        publish(number).await.unwrap();
    }
    influx.child().stop().await.unwrap();
    let mut next = 100;
    let refusal = loop {
        match publish(next).await {
            Ok(()) => next += 1,
            Err(refusal) => break refusal,
        }
        assert!(next < 5_000, "the stream takes for ever");
    };
    eprintln!("after {next} batches: {refusal}");
    assert!(matches!(refusal, PublishError::Unconfirmed(_)), "{refusal}");
    let info = jetstream.get_stream(METRICS_STREAM).await.unwrap().cached_info().clone();
    assert!(info.state.bytes.cast_signed() > SMALL_STREAM_BYTES / 2, "{} bytes", info.state.bytes);

    influx.child().restart().await.unwrap();
    let started_at = Instant::now();
    while next < 1_000 {
        match publish(next).await {
            Ok(()) => next += 1,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        assert!(started_at.elapsed() < Duration::from_secs(60), "refused for ever, after {next}");
    }
    while count(&influx).await < next.unsigned_abs() {
        assert!(
            started_at.elapsed() < Duration::from_secs(60),
            "{} of {next}",
            count(&influx).await
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(count(&influx).await, next.unsigned_abs());
    eprintln!("all {next} were there {:?} after the store was back", started_at.elapsed());
    // The newest batch of each device stays in the stream for the query role.
    let stream = jetstream.get_stream(METRICS_STREAM).await.unwrap();
    assert!(stream.cached_info().state.messages >= 2);
}
