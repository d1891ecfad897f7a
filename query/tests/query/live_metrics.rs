//! The newest metrics from a real broker: stored and new ones, also after the stream was lost.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use muster_backing::nats::{NatsOptions, NatsServer};
use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::subjects::{ALL_METRICS, DeviceSubjects, METRICS_STREAM, METRICS_TRANSFORM};
use muster_schemas::{DeviceId, ProjectId};

use crate::support::{ExtraServers, World, names, now};

/// Creates the stream; repeats it while the broker still removes the files of a deleted one.
async fn make_stream(jetstream: &jetstream::Context) {
    let config = stream::Config {
        name: METRICS_STREAM.into(),
        subjects: vec![ALL_METRICS.into()],
        subject_transform: Some(stream::SubjectTransform {
            source: ALL_METRICS.into(),
            destination: METRICS_TRANSFORM.into(),
        }),
        ..stream::Config::default()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = jetstream.create_stream(config.clone()).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn publish(jetstream: &jetstream::Context, device: DeviceId, idle: f64) {
    let cpu = Point::new("cpu").tag("cpu", "cpu-total").field("usage_idle", idle);
    let memory = Point::new("mem").field("used_percent", 41.5);
    let (time, points) = (now(), vec![cpu, memory]);
    let subjects = DeviceSubjects::new(&ProjectId::default_project(), device);
    let payload = MetricBatch { time, points }.encode();
    jetstream.publish(subjects.live_metrics("host"), payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_include_their_newest_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(NatsOptions::new(dir.path())).await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    make_stream(&jetstream).await;
    let world =
        World::new(ExtraServers { nats: Some(nats.url()), ..ExtraServers::default() }).await;
    let quiet = world.register("quiet", &[]).await;
    let robot = world.register("robot", &[]).await;
    publish(&jetstream, robot, 90.0).await;
    publish(&jetstream, robot, 75.0).await;
    let cpu = |expected: f64| {
        move |device: &serde_json::Value| device["metrics"]["cpu_percent"] == expected
    };
    let device = world.wait("/api/v1/devices/robot", cpu(25.0)).await;
    assert_eq!(device["metrics"]["memory_percent"], 41.5);
    assert!(device["last_seen_at"].is_string());
    let latest = world.show("/api/v1/devices/robot/metrics/latest").await;
    assert_eq!(latest["points"][0]["fields"]["usage_idle"], 75.0);
    assert_eq!(latest["points"][0]["group"], "host");
    assert!(world.show(&format!("/api/v1/devices/{quiet}")).await["metrics"].is_null());
    assert_eq!(names(&world.show("/api/v1/devices?sort=-last_seen_at").await), ["robot", "quiet"]);
    assert_eq!(names(&world.show("/api/v1/devices?sort=last_seen_at").await), ["quiet", "robot"]);

    // A batch that cannot be decoded is skipped; a stream that was lost and created again is
    // followed.
    let subjects = DeviceSubjects::new(&ProjectId::default_project(), robot);
    let bad = jetstream.publish(subjects.live_metrics("host"), "bad".into()).await.unwrap();
    bad.await.unwrap();
    jetstream.delete_stream(METRICS_STREAM).await.unwrap();
    make_stream(&jetstream).await;
    publish(&jetstream, robot, 50.0).await;
    world.wait("/api/v1/devices/robot", cpu(50.0)).await;
    nats.stop().await.unwrap();
}
