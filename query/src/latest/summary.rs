//! Summary of a device's health from its metric batches. Pure.

use muster_api_types::metrics::MetricsSummary;
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::selector::{Requirement, Test};

/// Creates the summary of one batch.
pub(super) fn from_batch(batch: &MetricBatch) -> MetricsSummary {
    let mut summary = MetricsSummary::default();
    for point in &batch.points {
        add_point(&mut summary, point);
    }
    summary
}

fn add_point(summary: &mut MetricsSummary, point: &Point) {
    match point.measurement.as_str() {
        "cpu" if is_tagged(point, "cpu", "cpu-total") => {
            let idle = number(point, "usage_idle").map(|idle| 100.0 - idle);
            summary.cpu_percent = number(point, "usage_active").or(idle).or(summary.cpu_percent);
        }
        "mem" => summary.memory_percent = number(point, "used_percent").or(summary.memory_percent),
        "disk" if is_tagged(point, "path", "/") => {
            summary.disk_percent = number(point, "used_percent").or(summary.disk_percent);
        }
        "battery" => summary.battery_percent = number(point, "percent").or(summary.battery_percent),
        // Only the agent's own measurement: an application may have a field of this name.
        "muster_agent" => {
            if let Some(FieldValue::Int(skew)) = field(point, "clock_skew_us") {
                #[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
                let micros = *skew as f64;
                summary.clock_skew_seconds = Some(micros / 1e6);
            }
        }
        _ => {}
    }
}

/// Whether one of the series in the requirement matches it. Of `cpu`, only the total is compared.
pub(super) fn matches(requirement: &Requirement, batches: &[MetricBatch]) -> bool {
    let (Some((measurement, field)), Test::Measured(comparison, limit)) =
        (requirement.metric(), &requirement.test)
    else {
        return false;
    };
    let points = batches.iter().flat_map(|batch| &batch.points);
    points
        .filter(|point| point.measurement.as_str() == measurement)
        .filter(|point| measurement != "cpu" || is_tagged(point, "cpu", "cpu-total"))
        .filter_map(|point| number(point, field))
        .any(|value| comparison.holds(value, *limit))
}

fn is_tagged(point: &Point, name: &str, value: &str) -> bool {
    point.tags.iter().any(|(key, found)| key.as_str() == name && found == value)
}

fn field<'a>(point: &'a Point, name: &str) -> Option<&'a FieldValue> {
    let found = point.fields.iter().find(|(key, _)| key.as_str() == name);
    found.map(|(_, value)| value)
}

fn number(point: &Point, name: &str) -> Option<f64> {
    match field(point, name)? {
        FieldValue::Float(number) => Some(*number),
        #[expect(
            clippy::cast_precision_loss,
            reason = "the comparison does not need more precision"
        )]
        FieldValue::Int(number) => Some(*number as f64),
        FieldValue::Bool(_) | FieldValue::Text(_) => None,
    }
}
