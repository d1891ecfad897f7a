//! Metrics of devices: the newest, and over time.

use std::collections::BTreeMap;

use muster_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Open, schema};

/// Summary of a device's newest metrics; metrics that it does not measure are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// Time by which the device's clock is ahead of the server's, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = -0.0012)]
    pub clock_skew_seconds: Option<f64>,
    /// The values that are older than three intervals of their group; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<SummaryMetric>, example = json!(["disk"]))]
    pub stale: Vec<Open<SummaryMetric>>,
}

/// A value of the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SummaryMetric {
    /// Utilization of the processors.
    Cpu,
    /// Utilization of the memory.
    Memory,
    /// Utilization of the file system `/`.
    Disk,
    /// Charge of the battery.
    Battery,
    /// Skew of the clock.
    ClockSkew,
}

impl MetricsSummary {
    /// Whether all values are absent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The newest metrics of a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Latest {
    /// Time at which metrics were last received; null when this server has received none.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub last_seen_at: Option<Timestamp>,
    /// The most important metrics.
    pub summary: Option<MetricsSummary>,
    /// The newest value of each series; those that were reported together are one point.
    pub points: Vec<LatestPoint>,
    /// Number of values that this server did not keep since its start, because the device reports
    /// more than 5,000 series, or more than 128 KiB of them.
    pub dropped_value_count: u64,
}

/// A point.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LatestPoint {
    /// Measurement of the point.
    #[schema(example = "cpu")]
    pub measurement: String,
    /// Tags of the point.
    pub tags: BTreeMap<String, String>,
    /// Values by field.
    #[schema(value_type = BTreeMap<String, schema::MetricValue>)]
    pub fields: BTreeMap<String, serde_json::Value>,
    /// Time of the point.
    #[schema(value_type = schema::Timestamp)]
    pub time: Timestamp,
    /// Time since then by the server's clock, in seconds.
    #[schema(example = 4.2)]
    pub age_seconds: f64,
    /// Interval at which the device reports it, as observed, in seconds; null until it was reported
    /// twice.
    #[schema(example = 10.0)]
    pub interval_seconds: Option<f64>,
    /// Whether it is older than three intervals; selectors do not use it then.
    pub stale: bool,
}

/// A metric of a selector, and how many devices it left out because they had no fresh value of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WithoutFreshValue {
    /// The metric, as in the selector.
    #[schema(example = "mem.available")]
    pub metric: String,
    /// Number of devices without a fresh value: they were not selected, and may have been with one.
    #[schema(example = 3)]
    pub device_count: u64,
    /// Number of devices for which the selector's metrics decide.
    #[schema(example = 40)]
    pub candidate_count: u64,
}

impl From<muster_schemas::wire::internal::WithoutFreshValue> for WithoutFreshValue {
    fn from(found: muster_schemas::wire::internal::WithoutFreshValue) -> Self {
        let muster_schemas::wire::internal::WithoutFreshValue {
            metric,
            device_count,
            candidate_count,
        } = found;
        Self { metric, device_count, candidate_count }
    }
}

/// A field of a device over time.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricSeries {
    /// The requested field.
    pub field: String,
    /// Function that aggregated the values of a step.
    #[schema(value_type = Function)]
    pub function: Open<Function>,
    /// Start of the range.
    #[schema(value_type = schema::Timestamp)]
    pub from: Timestamp,
    /// End of the range.
    #[schema(value_type = schema::Timestamp)]
    pub to: Timestamp,
    /// Interval between points, in seconds.
    pub step_seconds: f64,
    /// One series for each combination of tags.
    pub series: Vec<Series>,
}

/// A series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Series {
    /// Tags that distinguish it from the others.
    pub tags: BTreeMap<String, String>,
    /// Points, the oldest first; a step without values has no point.
    pub points: Vec<SeriesPoint>,
}

/// A point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesPoint {
    /// Start of its step.
    #[schema(value_type = schema::Timestamp)]
    pub time: Timestamp,
    /// A number; for `last`, any value of the field's type.
    #[schema(value_type = schema::MetricValue)]
    pub value: serde_json::Value,
}

/// Function that aggregates the values of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Mean.
    #[default]
    Mean,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
    /// Newest value.
    Last,
    /// 95th percentile.
    P95,
    /// Sum.
    Sum,
    /// Number of values.
    Count,
}

/// A measurement of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Measurement {
    /// Name of the measurement.
    #[schema(example = "cpu")]
    pub name: String,
    /// Fields with their types: `float`, `integer`, `boolean`, `string`. Fields that only other
    /// devices of the project have are included.
    pub fields: BTreeMap<String, String>,
    /// Tags of this device's series.
    pub tags: Vec<String>,
}
