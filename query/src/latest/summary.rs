//! Summary of a device's health from its metric batches. Pure.

use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::selector::{Requirement, Test};
use serde::Serialize;
use utoipa::ToSchema;

/// Summary of a device's newest metrics; metrics that it does not measure are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct MetricsSummary {
    /// Utilization of all processors together, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 12.5)]
    pub cpu_percent: Option<f64>,
    /// Utilization of the memory, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 41.2)]
    pub memory_percent: Option<f64>,
    /// Utilization of the file system `/`, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 63.0)]
    pub disk_percent: Option<f64>,
    /// Charge of the battery, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 80.0)]
    pub battery_percent: Option<f64>,
    /// Time by which the device's clock is ahead of the server's, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = -1200)]
    pub clock_skew_us: Option<i64>,
}

impl MetricsSummary {
    /// Creates the summary of one batch.
    #[must_use]
    pub fn from_batch(batch: &MetricBatch) -> Self {
        let mut summary = Self::default();
        for point in &batch.points {
            summary.add_point(point);
        }
        summary
    }

    /// Returns this summary, with the other's values for those that are absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu_percent: self.cpu_percent.or(other.cpu_percent),
            memory_percent: self.memory_percent.or(other.memory_percent),
            disk_percent: self.disk_percent.or(other.disk_percent),
            battery_percent: self.battery_percent.or(other.battery_percent),
            clock_skew_us: self.clock_skew_us.or(other.clock_skew_us),
        }
    }

    /// Whether all values are absent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add_point(&mut self, point: &Point) {
        match point.measurement.as_str() {
            "cpu" if is_tagged(point, "cpu", "cpu-total") => {
                let idle = number(point, "usage_idle").map(|idle| 100.0 - idle);
                self.cpu_percent = number(point, "usage_active").or(idle).or(self.cpu_percent);
            }
            "mem" => self.memory_percent = number(point, "used_percent").or(self.memory_percent),
            "disk" if is_tagged(point, "path", "/") => {
                self.disk_percent = number(point, "used_percent").or(self.disk_percent);
            }
            "battery" => self.battery_percent = number(point, "percent").or(self.battery_percent),
            // Only the agent's own measurement: an application may have a field of this name.
            "muster_agent" => {
                if let Some(FieldValue::Int(skew)) = field(point, "clock_skew_us") {
                    self.clock_skew_us = Some(*skew);
                }
            }
            _ => {}
        }
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
