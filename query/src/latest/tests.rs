//! The store keeps the newest batch in any order of receipt; the summary has the right values.

use bytes::Bytes;
use muster_api_types::metrics::MetricsSummary;
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::{DeviceId, ProjectId, Timestamp};
use uuid::Uuid;

use super::LatestMetrics;
use super::summary::from_batch;

fn batch(time: i64, points: Vec<Point>) -> Bytes {
    let time = Timestamp(time);
    MetricBatch { time, points }.encode().into()
}

fn cpu(idle: f64) -> Point {
    Point::new("cpu").tag("cpu", "cpu-total").field("usage_idle", idle)
}

#[test]
fn the_newest_batch_is_kept_regardless_of_arrival_order() {
    let (latest, project) = (LatestMetrics::default(), ProjectId::default_project());
    let device = DeviceId(Uuid::from_u128(1));
    let cpu_at = |time, idle, at| {
        latest
            .update(&project, device, "host", &batch(time, vec![cpu(idle)]), Timestamp(at))
            .unwrap();
    };
    cpu_at(20, 90.0, 21);
    cpu_at(10, 50.0, 22);
    let battery = Point::new("battery").field("percent", 80_i64);
    latest.update(&project, device, "power", &batch(5, vec![battery]), Timestamp(6)).unwrap();
    assert_eq!(
        latest.summary(&project, device),
        Some(MetricsSummary {
            cpu_percent: Some(10.0),
            battery_percent: Some(80.0),
            ..MetricsSummary::default()
        })
    );
    assert_eq!(latest.last_seen(&project, device), Some(Timestamp(22)));
    let groups = latest.groups(&project, device);
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].batch.time, Timestamp(20));

    assert!(latest.update(&project, device, "host", b"x", Timestamp(9)).is_err());
    latest.retain(|_, _| false);
    assert_eq!(latest.last_seen(&project, device), None);
}

#[test]
fn a_batch_from_the_future_is_replaced_once_the_clock_is_correct() {
    const MINUTE: i64 = 60_000_000;
    let (latest, project) = (LatestMetrics::default(), ProjectId::default_project());
    let device = DeviceId(Uuid::from_u128(1));
    let after = |time, idle, received| {
        let payload = batch(time, vec![cpu(idle)]);
        latest.update(&project, device, "host", &payload, Timestamp(received)).unwrap();
        latest.summary(&project, device).and_then(|summary| summary.cpu_percent)
    };
    assert_eq!(after(i64::MAX, 90.0, 0), Some(10.0));
    assert_eq!(after(MINUTE, 80.0, MINUTE), Some(10.0));
    assert_eq!(after(5 * MINUTE, 70.0, 5 * MINUTE), Some(30.0));
    // Slightly ahead is accepted.
    assert_eq!(after(8 * MINUTE, 60.0, 6 * MINUTE), Some(40.0));
    assert_eq!(after(7 * MINUTE, 50.0, 7 * MINUTE), Some(40.0));
}

#[test]
fn the_summary_uses_the_right_points() {
    let points = vec![
        Point::new("cpu").tag("cpu", "cpu0").field("usage_idle", 1.0),
        cpu(75.0),
        Point::new("mem").field("used_percent", 41.5),
        Point::new("disk").tag("path", "/boot").field("used_percent", 99.0),
        Point::new("disk").tag("path", "/").field("used_percent", 63.0),
        Point::new("muster_agent").field("clock_skew_us", -7_i64),
    ];
    let time = Timestamp(0);
    assert_eq!(
        from_batch(&MetricBatch { time, points }),
        MetricsSummary {
            cpu_percent: Some(25.0),
            memory_percent: Some(41.5),
            disk_percent: Some(63.0),
            battery_percent: None,
            clock_skew_seconds: Some(-7e-6),
        }
    );
}

#[test]
fn an_applications_field_does_not_replace_the_clock_skew() {
    let own = Point::new("muster_agent").field("clock_skew_us", -1_200_i64);
    let application = Point::new("app").field("clock_skew_us", 99_000_000_i64);
    let points = vec![own, application];
    let summary = from_batch(&MetricBatch { time: Timestamp(0), points });
    assert_eq!(summary.clock_skew_seconds, Some(-0.0012));
}

/// Sixteen compressed groups of 4 MiB each caused a response of 65 MB and 0.3 s for each selector.
#[test]
fn a_device_s_memory_is_limited_regardless_of_compression() {
    let (latest, project) = (LatestMetrics::default(), ProjectId::default_project());
    let device = DeviceId(Uuid::from_u128(1));
    latest.update(&project, device, "host", &batch(1, vec![cpu(90.0)]), Timestamp(1)).unwrap();
    for group in 0..16 {
        let text = FieldValue::Text("x".repeat(1_000));
        let points = vec![Point::new("app").field("text", text); 4_000];
        let bytes = MetricBatch { time: Timestamp(2), points }.encode_compressed();
        assert!(bytes.len() < 64 * 1024, "{}", bytes.len());
        let group = format!("large-{group}");
        latest.update(&project, device, &group, &bytes, Timestamp(2)).unwrap();
        let points = vec![cpu(50.0); 500];
        let group = format!("many-{group}");
        latest.update(&project, device, &group, &batch(2, points), Timestamp(2)).unwrap();
    }
    let groups = latest.groups(&project, device);
    let points: usize = groups.iter().map(|group| group.batch.points.len()).sum();
    let bytes: usize = groups.iter().map(|group| group.batch.encode().len()).sum();
    assert!(points <= super::store::MAX_DEVICE_POINTS, "{points}");
    assert!(bytes <= super::store::MAX_DEVICE_BYTES, "{bytes}");
    // The summary includes all groups.
    assert_eq!(latest.last_seen(&project, device), Some(Timestamp(2)));
    let summary = latest.summary(&project, device).unwrap();
    assert!(summary.cpu_percent.is_some());
}
