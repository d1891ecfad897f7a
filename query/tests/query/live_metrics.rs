//! The newest metrics from a real broker: stored and new ones, also after the stream was lost.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use muster_backing::nats::{NatsOptions, NatsServer};
use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::subjects::{ALL_METRICS, DeviceSubjects, METRICS_STREAM, METRICS_TRANSFORM};
use muster_schemas::{DeviceId, ProjectId};

use crate::device_stream::Client;
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
    assert_eq!(latest["points"][0]["stale"], false);
    assert!(latest["points"][0]["age_seconds"].as_f64().unwrap() < 60.0, "{latest}");
    assert!(latest["points"][0]["interval_seconds"].is_number(), "{latest}");
    assert_eq!(latest["dropped_value_count"], 0);
    assert!(world.show(&format!("/api/v1/devices/{quiet}")).await["metrics"].is_null());
    assert_eq!(names(&world.show("/api/v1/devices?sort=-last_seen_at").await), ["robot", "quiet"]);
    assert_eq!(names(&world.show("/api/v1/devices?sort=last_seen_at").await), ["quiet", "robot"]);

    // A live list has changed metrics, and selects by them.
    let mut live = Client::open(&world, "?selector=cpu.usage_idle%3C80").await;
    assert_eq!(live.next().await.as_deref(), Some("window"));
    let id = robot.to_string();
    assert_eq!(live.order, [id.as_str()]);
    publish(&jetstream, robot, 60.0).await;
    while live.devices[&id]["metrics"]["cpu_percent"] != 40.0 {
        live.next().await.expect("a change");
    }
    publish(&jetstream, robot, 95.0).await;
    while !live.order.is_empty() {
        live.next().await.expect("a change");
    }

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

/// A batch of `points` that was sampled now.
async fn publish_points(jetstream: &jetstream::Context, device: DeviceId, points: Vec<Point>) {
    let subject = DeviceSubjects::new(&ProjectId::default_project(), device).live_metrics("host");
    let payload = MetricBatch { time: now(), points }.encode();
    jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap();
}

fn memory(percent: f64) -> Point {
    Point::new("mem").field("used_percent", percent)
}

fn disk(path: &str, percent: f64) -> Point {
    Point::new("disk").tag("path", path).field("used_percent", percent)
}

/// The last batch of each device does not have all of its values; the process starts after them.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_all_series_are_selected_by_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(NatsOptions::new(dir.path())).await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    make_stream(&jetstream).await;
    let ids = [1_u128, 2, 3].map(|n| DeviceId(uuid::Uuid::from_u128(n)));
    for (id, used) in ids.iter().zip([95.0, 5.0]) {
        publish_points(&jetstream, *id, vec![memory(used), disk("/data", used)]).await;
    }
    for _ in 0..3 {
        for id in &ids[..2] {
            publish_points(&jetstream, *id, vec![Point::new("app").field("requests", 7_i64)]).await;
        }
    }
    let world =
        World::new(ExtraServers { nats: Some(nats.url()), ..ExtraServers::default() }).await;
    for (id, name) in ids.iter().zip(["full", "free", "quiet"]) {
        world.register_as(*id, name, &[("env", "prod")]).await;
    }
    world.register("other", &[]).await;
    let path = "/api/v1/devices?selector=app.requests=7,disk[/data].used_percent>90";
    // `app.requests=7` is a label here, because it is no metric of the agent.
    assert_eq!(names(&world.show(path).await), Vec::<&str>::new());
    let path = "/api/v1/devices?selector=metric.app.requests=7,disk[/data].used_percent>90";
    world.wait(path, |page| names(page) == ["full"]).await;
    for (selector, expected, without) in [
        ("mem.used_percent>90", vec!["full"], vec![("mem.used_percent", 2, 4)]),
        ("env=prod,mem.used_percent<=90", vec!["free"], vec![("mem.used_percent", 1, 3)]),
        // Not known is not selected, in neither direction.
        ("env=prod,not+mem.used_percent>90", vec!["free"], vec![("mem.used_percent", 1, 3)]),
        (
            "mem.used_percent>90+or+env=prod",
            vec!["free", "full", "quiet"],
            vec![("mem.used_percent", 1, 1)],
        ),
        ("name=f*,disk[path=/data].used_percent>90", vec!["full"], vec![]),
        ("env=prod,disk[/].used_percent>90", vec![], vec![("disk[/].used_percent", 3, 3)]),
        (
            "env=prod,mem.used_percent>1,app.requests>9,mem.used_percent<99",
            vec![],
            vec![("mem.used_percent", 1, 3), ("app.requests", 1, 3)],
        ),
        ("env=nowhere,mem.used_percent>90", vec![], vec![]),
        ("env", vec!["free", "full", "quiet"], vec![]),
    ] {
        let page = world.show(&format!("/api/v1/devices?selector={selector}")).await;
        assert_eq!(names(&page), expected, "{selector}: {page}");
        let found: Vec<(&str, u64, u64)> = page["without_fresh_value"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| {
                let count = |name: &str| one[name].as_u64().unwrap();
                let metric = one["metric"].as_str().unwrap();
                (metric, count("device_count"), count("candidate_count"))
            })
            .collect();
        assert_eq!(found, without, "{selector}");
    }
    let misspelt = world.get("/api/v1/devices?selector=mem.used_precent>90").await;
    assert_eq!(misspelt.status, 400);
    let message = misspelt.body["errors"][0]["message"].to_string() + &misspelt.body.to_string();
    assert!(message.contains("did you mean 'mem.used_percent'"), "{}", misspelt.body);
    nats.stop().await.unwrap();
}
