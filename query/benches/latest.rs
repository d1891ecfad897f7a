//! Measures the memory of the newest values of 10,000 devices, and the time of an update, a
//! selector and a page. Prints them; asserts no times.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark: it prints, and what fails ends it"
)]

use std::time::{Duration, Instant};

use muster_query::latest::LatestMetrics;
use muster_schemas::metric_names::NAMES;
use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::selector::{Comparison, Metric};
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use uuid::Uuid;

const DEVICES: u128 = 10_000;

/// A point with this number of fields, of well-known names from this one on.
fn point(measurement: &'static str, first: &str, fields: usize, value: f64) -> Point {
    let start = NAMES.iter().position(|name| *name == first).unwrap();
    NAMES[start..]
        .iter()
        .take(fields)
        .fold(Point::new(measurement), |point, name| point.field(name, value + name.len() as f64))
}

/// A batch like that of an agent on a machine with eight cores.
fn batch(time: Timestamp, value: f64) -> MetricBatch {
    let mut points: Vec<Point> = (0..8)
        .map(|core| point("cpu", "usage_user", 11, value).tag("cpu", format!("cpu{core}")))
        .collect();
    points.push(point("cpu", "usage_user", 11, value).tag("cpu", "cpu-total"));
    points.push(point("mem", "total", 34, value));
    points.push(point("swap", "total", 6, value));
    points.push(point("system", "load1", 7, value));
    points.push(point("processes", "running", 12, value));
    for path in ["/", "/boot", "/data"] {
        let disk = point("disk", "total", 8, value).tag("path", path).tag("fstype", "ext4");
        points.push(disk.tag("device", format!("sda{}", path.len())).tag("mode", "rw"));
        points.push(point("diskio", "reads", 11, value).tag("name", format!("sd{}", path.len())));
    }
    for name in ["lo", "eth0", "wlan0"] {
        points.push(point("net", "bytes_sent", 9, value).tag("interface", name));
    }
    for sensor in 0..6 {
        points.push(point("temp", "temp_high", 2, value).tag("sensor", format!("core_{sensor}")));
    }
    points.push(point("battery", "percent", 10, value).tag("battery", "BAT0"));
    points.push(point("muster_agent", "rss", 18, value));
    MetricBatch { time, points }
}

/// A batch that exceeds the limits of a device.
fn too_large(time: Timestamp) -> MetricBatch {
    let point = |n: usize| Point::new("app").tag("n", n.to_string()).field("value", n as f64);
    MetricBatch { time, points: (0..3_000).map(point).collect() }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn each_device(update: impl Fn(DeviceId)) -> Duration {
    let start = Instant::now();
    (0..DEVICES).for_each(|number| update(DeviceId(Uuid::from_u128(number))));
    start.elapsed()
}

fn main() {
    let (latest, project) = (LatestMetrics::default(), ProjectId::default_project());
    let second = |n: i64| Timestamp(n * 1_000_000);
    let store = |batch: &MetricBatch| {
        let bytes = batch.encode();
        let size = bytes.len();
        let took = each_device(|device| {
            latest.update(&project, device, &bytes, batch.time).unwrap();
        });
        (size, took / u32::try_from(DEVICES).unwrap())
    };
    let before = resident();
    let first = batch(second(0), 1.0);
    let series: usize = first.points.iter().map(|point| point.fields.len()).sum();
    let (bytes, new) = store(&first);
    let (_, update) = store(&batch(second(10), 2.0));
    let memory = resident() - before;
    println!("{} points, {series} series, a batch of {bytes} bytes", first.points.len());
    println!("memory of {DEVICES} devices: {} MB", memory / 1_000_000);
    println!("a batch: {new:?} the first, {update:?} later");
    let metric = Metric {
        measurement: "mem".to_owned(),
        tags: Vec::new(),
        field: "available".to_owned(),
        is_explicit: false,
    };
    let start = Instant::now();
    let found = latest.measure(&project, &metric, Comparison::Above, 1.0, second(11));
    println!("a condition on mem.available: {:?}", start.elapsed());
    assert_eq!(found.matching.len() as u128, DEVICES);
    let start = Instant::now();
    for number in 0..1_000 {
        let device = DeviceId(Uuid::from_u128(number));
        assert!(latest.summary(&project, device, second(11)).is_some());
    }
    println!("the summaries of a page of 1,000 devices: {:?}", start.elapsed());
    let before = resident();
    let (bytes, limited) = store(&too_large(second(20)));
    println!(
        "with a batch of {bytes} bytes that exceeds the limits: {} MB more, {limited:?} a batch",
        (resident() - before) / 1_000_000
    );
}
