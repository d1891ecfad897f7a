//! One device cannot affect the metrics of others by invalid times, types, values or floods; and an
//! InfluxDB that does not start.

use std::fs;
use std::time::{Duration, SystemTime};

use muster_schemas::Timestamp;
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_tests::{Api, SimDevice, System, wait};
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
const WEEK_MICROS: i64 = 7 * 86_400_000_000;

fn now() -> Timestamp {
    SystemTime::now().into()
}

async fn join(system: &System, project: &str, name: &str) -> SimDevice {
    let path = format!("/api/v1/enrollment-tokens?project={project}");
    let made = system.api.post(&path, &json!({"name": name, "max_uses": 1})).await;
    SimDevice::join(&system.api, &system.ca(), made["secret"].as_str().unwrap(), name).await
}

async fn measure(device: &SimDevice, points: Vec<Point>) {
    device.measure(&MetricBatch { time: now(), points }).await;
}

/// The newest value of a field from the API, if there is one.
async fn newest(api: &Api, device: &str, project: &str, field: &str) -> Option<Value> {
    let path = format!(
        "/api/v1/devices/{device}/metrics?project={project}&field={field}&fn=last&since=1h&step=1h"
    );
    let (_, response) = api.try_send(Method::GET, &path, None).await?;
    response["series"][0]["points"].as_array()?.last().map(|point| point["value"].clone())
}

/// The value of a counter of the server.
async fn counted(api: &Api, counter: &str) -> u64 {
    let (_, text) = api.send(Method::GET, "/metrics", None).await;
    let line = text
        .as_str()
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(counter).map(str::to_owned));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_device_does_not_harm_the_metrics_of_others() {
    let system = System::start().await;
    let api = &system.api;
    api.post("/api/v1/projects", &json!({"id": "other"})).await;
    let good = join(&system, "default", "good").await;
    let bad = join(&system, "default", "bad").await;
    let foreign = join(&system, "other", "foreign").await;

    // Times: a thousand past weeks, and a future one.
    let at = |offset| Point { offset, ..Point::new("app").field("v", 1_i64) };
    measure(
        &bad,
        (1..=1_000).map(|week| at(-week * WEEK_MICROS)).chain([at(WEEK_MICROS)]).collect(),
    )
    .await;
    // Types: before any other device writes these fields.
    let text = |text: &str| FieldValue::Text(text.to_owned());
    let cpu = || Point::new("cpu").tag("cpu", "cpu-total");
    let whole = Point::new("temp").field("temp", 45_i64);
    measure(&bad, vec![cpu().field("usage_user", text("x")), whole]).await;
    measure(&foreign, vec![Point::new("queue").field("size", text("x")).field("secret", 1_i64)])
        .await;
    // One invalid value among valid ones.
    let mut odd = Point::new("app").field("n", 7_i64);
    odd.tags.insert("path".into(), "/mnt/a\nb\u{1b}".to_owned());
    measure(&bad, vec![odd, Point::new("app").field("n", 8_i64)]).await;

    let points = vec![
        cpu().field("usage_user", 12.5),
        Point::new("temp").field("temp", 45.5),
        Point::new("queue").field("size", 3_i64),
    ];
    measure(&good, points).await;
    for (device, field, expected) in [
        ("good", "cpu.usage_user", json!(12.5)),
        ("good", "temp.temp", json!(45.5)),
        ("good", "queue.size", json!(3)),
        ("bad", "temp.temp", json!(45)),
        ("bad", "app.n", json!(8)),
    ] {
        wait::until(&format!("{field} of {device}"), WAIT_TIMEOUT, || async {
            (newest(api, device, "default", field).await? == expected).then_some(())
        })
        .await;
    }
    wait::until("the other project's point", WAIT_TIMEOUT, || async {
        (newest(api, "foreign", "other", "queue.size").await? == "x").then_some(())
    })
    .await;

    // Neither project sees the field names of the other.
    let fields = async |device: &str, project: &str| {
        let path = format!("/api/v1/devices/{device}/metrics/fields?project={project}");
        let all = api.get(&path).await;
        let items = all["items"].as_array().unwrap().clone();
        items.into_iter().find(|it| it["name"] == "queue").unwrap()["fields"].clone()
    };
    assert_eq!(fields("good", "default").await, json!({"size": "integer"}));
    assert_eq!(fields("foreign", "other").await, json!({"size": "string", "secret": "integer"}));

    let points = |outcome| format!("muster_ingest_points_total{{outcome=\"{outcome}\"}}");
    for (outcome, expected) in [("too_new", 1), ("wrong_type", 1), ("invalid", 1)] {
        assert_eq!(counted(api, &points(outcome)).await, expected, "{outcome}");
    }
    assert!(counted(api, &points("too_old")).await >= 990);
    assert!(api.list("/api/v1/dead-letters").await.is_empty());
}

/// Regression: 20,000 junk messages delayed a well-behaved device's point from 0.1 s to 7 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_device_does_not_delay_others() {
    let system = System::start().await;
    let api = &system.api;
    let good = join(&system, "default", "good").await;
    let bad = join(&system, "default", "bad").await;
    measure(&good, vec![Point::new("app").field("n", 1_i64)]).await;
    let is_read = async |expected: i64| {
        wait::until("the good device's point", WAIT_TIMEOUT, || async {
            (newest(api, "good", "default", "app.n").await? == expected).then_some(())
        })
        .await;
    };
    is_read(1).await;

    bad.flood_metrics(20_000).await;
    let started_at = std::time::Instant::now();
    measure(&good, vec![Point::new("app").field("n", 2_i64)]).await;
    is_read(2).await;
    let took = started_at.elapsed();
    eprintln!("a point took {took:?} beside 20,000 junk messages");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let dropped = "muster_ingest_metric_messages_dropped_total{cause=\"message_rate\"}";
    wait::until("the flood to be counted", WAIT_TIMEOUT, || async {
        (counted(api, dropped).await > 10_000).then_some(())
    })
    .await;
    // The number of stored dead letters is limited, and all refused messages are counted.
    let dead_letters = api.list("/api/v1/dead-letters").await;
    assert!(
        !dead_letters.is_empty() && dead_letters.len() <= 25,
        "{} dead letters",
        dead_letters.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_influxdb_outage_affects_only_metrics() {
    let mut system = System::start().await;
    let device = join(&system, "default", "robot").await;
    measure(&device, vec![Point::new("app").field("n", 1_i64)]).await;
    wait::until("the first point", WAIT_TIMEOUT, || async {
        newest(&system.api, "robot", "default", "app.n").await
    })
    .await;
    assert!(system.stop().await);
    let data = system.dir().join("influx/data");
    let aside = system.dir().join("influx/aside");
    fs::rename(&data, &aside).unwrap();
    fs::write(&data, "not a folder").unwrap();

    system.restart().await;
    assert!(system.output().contains("!! InfluxDB"), "{}", system.output());
    assert_eq!(system.api.get("/api/v1/devices/robot").await["name"], "robot");
    measure(&device, vec![Point::new("app").field("n", 2_i64)]).await;
    let path = "/api/v1/devices/robot/metrics?field=app.n";
    assert_eq!(system.api.status(path).await, 503);

    fs::remove_file(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    wait::until("the point that waited", Duration::from_secs(60), || async {
        (newest(&system.api, "robot", "default", "app.n").await? == 2).then_some(())
    })
    .await;
    let output = system.output();
    assert!(output.rsplit("!! InfluxDB").next().unwrap().contains("ok InfluxDB"), "{output}");
}
