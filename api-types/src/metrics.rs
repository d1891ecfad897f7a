//! Metrics of devices: the newest, and over time.

use std::collections::BTreeMap;

use muster_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Open, schema};

/// Summary of a device's newest metrics; metrics that it does not measure are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
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
}

impl MetricsSummary {
    /// Returns this summary, with the other's values for those that are absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu_percent: self.cpu_percent.or(other.cpu_percent),
            memory_percent: self.memory_percent.or(other.memory_percent),
            disk_percent: self.disk_percent.or(other.disk_percent),
            battery_percent: self.battery_percent.or(other.battery_percent),
            clock_skew_seconds: self.clock_skew_seconds.or(other.clock_skew_seconds),
        }
    }

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
    /// All points of the newest batch of each group.
    pub points: Vec<LatestPoint>,
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
    /// Group in which the device sends it.
    pub group: String,
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
