//! Metric batches like those of an agent on a machine with four cores: twelve points each.

use muster_schemas::Timestamp;
use muster_schemas::metrics::{MetricBatch, Point};

const CPU: [&str; 11] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
    "usage_active",
];
const MEM: [&str; 10] = [
    "total",
    "available",
    "used",
    "free",
    "cached",
    "buffered",
    "active",
    "inactive",
    "slab",
    "shared",
];
const DISKIO: [&str; 9] = [
    "reads",
    "writes",
    "read_bytes",
    "write_bytes",
    "read_time",
    "write_time",
    "io_time",
    "weighted_io_time",
    "iops_in_progress",
];
const NET: [&str; 8] = [
    "bytes_sent",
    "bytes_recv",
    "packets_sent",
    "packets_recv",
    "err_in",
    "err_out",
    "drop_in",
    "drop_out",
];

/// Number of points in a batch.
pub const POINTS: u64 = 12;

/// Returns the batch of a device in a round, with values that change like real ones.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "values made up, and far from the limits"
)]
pub fn batch(device: usize, round: usize, time: Timestamp) -> MetricBatch {
    let value = |n: usize| ((round * 7919 + device * 104_729 + n * 31) % 10_000) as f64 / 100.0;
    let whole = |n: usize| (value(n) * 1e5) as i64 + round as i64 * 1000;
    let whole_fields = |mut point: Point, names: &[&'static str]| {
        for (n, name) in names.iter().enumerate() {
            point = point.field(name, whole(n));
        }
        point
    };
    let mut points = Vec::new();
    for (number, cpu) in ["cpu0", "cpu1", "cpu2", "cpu3", "cpu-total"].into_iter().enumerate() {
        let mut point = Point::new("cpu").tag("cpu", cpu);
        for (n, name) in CPU.into_iter().enumerate() {
            let share = if n < 3 { f64::from(value(n + number) as f32) } else { 0.0 };
            point = point.field(name, share);
        }
        points.push(point);
    }
    points.push(whole_fields(Point::new("mem"), &MEM));
    for disk in ["sda", "sda1", "sda2"] {
        points.push(whole_fields(Point::new("diskio").tag("name", disk), &DISKIO));
    }
    for interface in ["eth0", "wlan0"] {
        points.push(whole_fields(Point::new("net").tag("interface", interface), &NET));
    }
    points.push(
        Point::new("system")
            .field("load1", value(1))
            .field("load5", value(2))
            .field("load15", value(3))
            .field("n_cpus", 4_i64)
            .field("uptime", round as i64 * 10),
    );
    MetricBatch { time, points }
}
