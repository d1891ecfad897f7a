//! The newest value of each series is kept in any order of receipt, has an age, and is limited.

use muster_api_types::metrics::{MetricsSummary, SummaryMetric};
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::selector::{Condition, Expression, Selector};
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use super::series::{DeviceSeries, MAX_DEVICE_BYTES, MAX_DEVICE_SERIES, Rows};
use super::{LatestMetrics, LatestPoint};

const SECOND: i64 = 1_000_000;

/// One device.
struct Device {
    latest: LatestMetrics,
    project: ProjectId,
}

const ID: DeviceId = DeviceId(Uuid::from_u128(1));

impl Default for Device {
    fn default() -> Self {
        Self { latest: LatestMetrics::default(), project: ProjectId::default_project() }
    }
}

impl Device {
    /// Takes a batch that was sampled and received at these seconds.
    fn receive(&self, time: i64, received_at: i64, points: Vec<Point>) {
        let batch = MetricBatch { time: Timestamp(time * SECOND), points };
        let received_at = Timestamp(received_at * SECOND);
        self.latest.update(&self.project, ID, &batch.encode(), received_at).unwrap();
    }

    fn summary(&self, now: i64) -> MetricsSummary {
        self.latest.summary(&self.project, ID, Timestamp(now * SECOND)).unwrap_or_default()
    }

    fn points(&self, now: i64) -> Vec<LatestPoint> {
        self.latest.points(&self.project, ID, Timestamp(now * SECOND)).0
    }

    /// Whether the device satisfies a condition on a metric; `None` without a fresh value.
    fn measure(&self, selector: &str, now: i64) -> Option<bool> {
        let selector: Selector = selector.parse().unwrap();
        let Some(Expression::Is(Condition::Metric(metric, comparison, limit))) = &selector.0 else {
            panic!("{selector}")
        };
        let now = Timestamp(now * SECOND);
        let found = self.latest.measure(&self.project, metric, *comparison, *limit, now);
        match (found.matching.len(), found.others.len()) {
            (1, 0) => Some(true),
            (0, 1) => Some(false),
            _ => None,
        }
    }
}

fn cpu(idle: f64) -> Point {
    Point::new("cpu").tag("cpu", "cpu-total").field("usage_idle", idle)
}

fn disk(path: &str, used: f64) -> Point {
    Point::new("disk").tag("path", path).field("used_percent", used)
}

#[test]
fn each_series_keeps_its_newest_value_in_any_order_of_receipt() {
    let device = Device::default();
    device.receive(20, 21, vec![cpu(90.0), disk("/", 41.0)]);
    device.receive(10, 22, vec![cpu(50.0), disk("/data", 5.0)]);
    device.receive(30, 31, vec![Point::new("battery").field("percent", 80_i64)]);
    assert_eq!(
        device.summary(32),
        MetricsSummary {
            cpu_percent: Some(10.0),
            disk_percent: Some(41.0),
            battery_percent: Some(80.0),
            ..MetricsSummary::default()
        }
    );
    let times: Vec<_> = device.points(32).iter().map(|point| point.time.micros()).collect();
    assert_eq!(times.len(), 4);
    assert_eq!(device.latest.last_seen(&device.project, ID), Some(Timestamp(31 * SECOND)));
    assert!(device.latest.update(&device.project, ID, b"x", Timestamp(9)).is_err());
    device.latest.retain(|_, _| false);
    assert_eq!(device.latest.last_seen(&device.project, ID), None);
}

#[test]
fn fields_that_are_reported_apart_are_all_kept() {
    let device = Device::default();
    let app = |name: &'static str, value: i64| Point::new("app").field(name, value);
    device.receive(10, 10, vec![app("a", 1).field("b", 1_i64)]);
    device.receive(20, 20, vec![app("b", 2)]);
    device.receive(30, 30, vec![app("c", 3)]);
    device.receive(15, 31, vec![app("a", 4).field("b", 4_i64)]);
    let points = device.points(31);
    let mut fields: Vec<(String, i64, FieldValue)> = points
        .into_iter()
        .flat_map(|point| {
            let seconds = point.time.micros() / SECOND;
            point.fields.into_iter().map(move |(name, value)| (name.to_string(), seconds, value))
        })
        .collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("a", 15, 4_i64), ("b", 20, 2), ("c", 30, 3)];
    assert_eq!(fields, expected.map(|(name, at, value)| (name.to_owned(), at, value.into())));
}

#[test]
fn a_value_is_stale_after_three_intervals_of_its_own() {
    let device = Device::default();
    for round in 0..10 {
        let mut points = vec![cpu(50.0)];
        if round % 6 == 0 {
            points.push(disk("/", 40.0));
        }
        device.receive(round * 20, round * 20, points);
    }
    let intervals: Vec<_> =
        device.points(180).iter().map(|point| point.interval.map(|it| it.as_secs())).collect();
    assert_eq!(intervals, [Some(20), Some(120)]);
    // Of the last reports at 180 and 120 s, with intervals of 20 and 120 s.
    for (now, cpu_is_fresh, disk_is_fresh) in [
        (181, true, true),
        (240, true, true),
        (241, false, true),
        (480, false, true),
        (481, false, false),
    ] {
        let fresh = |selector| device.measure(selector, now).is_some();
        assert_eq!(fresh("cpu.usage_idle > 0"), cpu_is_fresh, "{now}");
        assert_eq!(fresh("disk.used_percent > 0"), disk_is_fresh, "{now}");
        let stale = device.summary(now).stale;
        assert_eq!(stale.contains(&SummaryMetric::Cpu.into()), !cpu_is_fresh, "{now}");
        assert_eq!(stale.contains(&SummaryMetric::Disk.into()), !disk_is_fresh, "{now}");
    }
    // The time offline is no interval for long: it halves with each report.
    device.receive(100_000, 100_000, vec![cpu(50.0)]);
    for round in 1..=8 {
        device.receive(100_000 + round * 20, 100_000 + round * 20, vec![cpu(50.0)]);
    }
    let interval = device.points(100_160)[0].interval.map(|it| it.as_secs());
    assert_eq!(interval, Some(20));
}

#[test]
fn a_series_that_was_received_once_is_fresh_for_some_minutes() {
    let device = Device::default();
    device.receive(0, 0, vec![disk("/", 40.0)]);
    assert_eq!(device.points(899)[0].interval, None);
    assert_eq!(device.measure("disk.used_percent > 0", 900), Some(true));
    assert_eq!(device.measure("disk.used_percent > 0", 901), None);
    // A shorter interval than 10 s counts as 10 s.
    device.receive(1000, 1000, vec![cpu(1.0)]);
    device.receive(1001, 1001, vec![cpu(1.0)]);
    assert_eq!(device.measure("cpu.usage_idle > 0", 1031), Some(true));
    assert_eq!(device.measure("cpu.usage_idle > 0", 1032), None);
}

#[test]
fn the_interval_is_known_from_older_batches_too() {
    let device = Device::default();
    for time in [300, 100, 200, 0] {
        device.receive(time, time, vec![disk("/", 40.0)]);
    }
    assert_eq!(device.points(300)[0].interval.map(|it| it.as_secs()), Some(100));
}

#[test]
fn a_point_from_the_future_is_replaced_once_the_clock_is_correct() {
    const MINUTE: i64 = 60;
    let device = Device::default();
    let after = |time, idle, received| {
        device.receive(time, received, vec![cpu(idle)]);
        device.summary(received).cpu_percent
    };
    assert_eq!(after(i64::MAX / SECOND, 90.0, 0), Some(10.0));
    assert_eq!(after(MINUTE, 80.0, MINUTE), Some(10.0));
    assert_eq!(after(5 * MINUTE, 70.0, 5 * MINUTE), Some(30.0));
    // Slightly ahead is accepted.
    assert_eq!(after(8 * MINUTE, 60.0, 6 * MINUTE), Some(40.0));
    assert_eq!(after(7 * MINUTE, 50.0, 7 * MINUTE), Some(40.0));
    // The age is by the server's clock.
    assert_eq!(device.points(7 * MINUTE)[0].age.as_secs(), 60);
}

#[test]
fn a_metric_is_compared_in_the_selected_series() {
    let device = Device::default();
    let points = vec![
        Point::new("cpu").tag("cpu", "cpu0").field("usage_idle", 1.0),
        cpu(75.0),
        Point::new("disk").tag("path", "/").tag("fstype", "ext4").field("used_percent", 20.0),
        Point::new("disk").tag("path", "/data").tag("fstype", "xfs").field("used_percent", 95_i64),
        Point::new("app").field("text", FieldValue::Text("5".to_owned())),
    ];
    device.receive(0, 0, points);
    for (selector, expected) in [
        ("cpu.usage_idle < 5", Some(false)),
        ("cpu[cpu0].usage_idle < 5", Some(true)),
        ("cpu[cpu=cpu*].usage_idle < 5", Some(true)),
        ("disk.used_percent > 90", Some(true)),
        ("disk[/].used_percent > 90", Some(false)),
        ("disk[path=/data].used_percent = 95%", Some(true)),
        ("disk[path=/data].used_percent != 95", Some(false)),
        ("disk[/data,fstype=ext4].used_percent > 0", None),
        ("disk[device=/data].used_percent > 0", None),
        ("disk.inodes_used > 0", None),
        ("app.text > 0", None),
        ("mem.available > 0", None),
    ] {
        assert_eq!(device.measure(selector, 0), expected, "{selector}");
    }
    assert!(device.latest.is_reported(&device.project, "app", "text"));
    assert!(!device.latest.is_reported(&device.project, "app", "other"));
}

#[test]
fn the_summary_uses_the_right_points() {
    let device = Device::default();
    let points = vec![
        Point::new("cpu").tag("cpu", "cpu0").field("usage_idle", 1.0),
        cpu(75.0),
        Point::new("mem").field("used_percent", 41.5),
        disk("/boot", 99.0),
        disk("/", 63.0),
        Point::new("muster_agent").field("clock_skew_us", -7_i64),
        // Only the agent's own measurement has the clock skew.
        Point::new("app").field("clock_skew_us", 99_000_000_i64),
    ];
    device.receive(0, 0, points);
    assert_eq!(
        device.summary(0),
        MetricsSummary {
            cpu_percent: Some(25.0),
            memory_percent: Some(41.5),
            disk_percent: Some(63.0),
            clock_skew_seconds: Some(-7e-6),
            ..MetricsSummary::default()
        }
    );
}

/// Compressed batches of 4 MiB, and new series with each batch.
#[test]
fn a_device_s_memory_is_limited_and_what_is_dropped_is_counted() {
    let mut series = DeviceSeries::default();
    let apply = |series: &mut DeviceSeries, time: i64, points| {
        let time = Timestamp(time * SECOND);
        series.apply(Rows::of(&MetricBatch { time, points }, time));
    };
    apply(&mut series, 0, vec![cpu(90.0)]);
    let text = |n: usize| FieldValue::Text(format!("{n}{}", "x".repeat(1_000)));
    for round in 0..4 {
        let many =
            (0..3_000).map(|n| Point::new("app").tag("n", format!("{round}-{n}")).field("a", 1.0));
        apply(&mut series, 1, many.collect());
        let large = (0..1_000).map(|n| Point::new("app").tag("n", "x").field("text", text(n)));
        apply(&mut series, 1, large.collect());
    }
    assert!(series.memory() <= MAX_DEVICE_BYTES, "{}", series.memory());
    assert!(series.count() <= MAX_DEVICE_SERIES, "{}", series.count());
    assert!(series.dropped > 9_000, "{}", series.dropped);
    // What was there before is updated, and not pushed out by other series.
    apply(&mut series, 2, vec![cpu(50.0)]);
    let first =
        series.points(Timestamp(2 * SECOND)).find(|point| point.measurement.as_str() == "cpu");
    assert_eq!(first.map(|point| point.time), Some(Timestamp(2 * SECOND)));
    // Stale series make room for new ones.
    let dropped = series.dropped;
    apply(&mut series, 10_000, vec![disk("/", 1.0), cpu(40.0)]);
    assert_eq!((series.dropped, series.count()), (dropped, 2));
    // A series that is no longer reported is forgotten when a new one appears, after a week.
    apply(&mut series, 10_000 + 8 * 24 * 3600, vec![disk("/new", 1.0)]);
    assert_eq!(series.count(), 1);
}

/// Many fields in one point are limited too.
#[test]
fn the_number_of_series_is_limited() {
    let mut series = DeviceSeries::default();
    let names: Vec<&'static str> = (0..250).map(|n| &*format!("f{n}").leak()).collect();
    for n in 0..30 {
        let point = names
            .iter()
            .fold(Point::new("a").tag("n", n.to_string()), |point, name| point.field(name, 1_i64));
        let batch = MetricBatch { time: Timestamp(0), points: vec![point] };
        series.apply(Rows::of(&batch, Timestamp(0)));
    }
    assert_eq!(series.count(), MAX_DEVICE_SERIES);
    assert_eq!(series.dropped, 30 * 250 - MAX_DEVICE_SERIES as u64);
}

proptest! {
    /// The fold has the same values as a map from each series to its newest value.
    #[test]
    fn the_newest_value_wins(
        points in proptest::collection::vec((0..3_usize, 1..8_u8, 0..50_i64), 1..60)
    ) {
        let mut series = DeviceSeries::default();
        let mut expected = std::collections::BTreeMap::new();
        for (number, (tag, fields, time)) in (0_i64..).zip(points) {
            let mut point = Point::new("app").tag("n", tag.to_string());
            for (bit, name) in ["a", "b", "c"].into_iter().enumerate() {
                if fields & (1 << bit) != 0 {
                    point = point.field(name, number);
                    let newest = expected.entry((tag.to_string(), name.to_owned())).or_insert((time, 0));
                    if newest.0 <= time {
                        *newest = (time, number);
                    }
                }
            }
            let batch = MetricBatch { time: Timestamp(time * SECOND), points: vec![point] };
            series.apply(Rows::of(&batch, Timestamp(50 * SECOND)));
        }
        let found: std::collections::BTreeMap<_, _> = series
            .points(Timestamp(50 * SECOND))
            .flat_map(|point| {
                let tag = point.tags.values().next().cloned().unwrap_or_default();
                let time = point.time.micros() / SECOND;
                point.fields.into_iter().map(move |(name, value)| match value {
                    FieldValue::Int(value) => ((tag.clone(), name.to_string()), (time, value)),
                    other => panic!("{other:?}"),
                })
            })
            .collect();
        prop_assert_eq!(found, expected);
    }
}
