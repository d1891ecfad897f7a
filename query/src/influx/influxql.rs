//! Formats InfluxQL queries. Pure.
//!
//! Invariant: a client's input is part of a query only through [`identifier`] and [`string`].

use std::fmt::Write as _;
use std::time::Duration;

use muster_metric_store::{identifier, string};
use muster_schemas::{DeviceId, ProjectId, Timestamp};

use super::metric_buckets::MetricBuckets;

/// Function that aggregates the values of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// A query of one field of one device.
#[derive(Clone, Debug)]
pub struct MetricQuery<'a> {
    /// The project.
    pub project: &'a ProjectId,
    /// The device.
    pub device: DeviceId,
    /// Buckets that may hold its points.
    pub buckets: &'a MetricBuckets,
    /// Measurement, such as `cpu`.
    pub measurement: &'a str,
    /// Field, such as `usage_user`.
    pub field: &'a str,
    /// Start of the range.
    pub from: Timestamp,
    /// End of the range, exclusive.
    pub to: Timestamp,
    /// Interval between points.
    pub step: Duration,
    /// Function that aggregates the values of a step.
    pub function: Function,
    /// Tags by which series are grouped.
    pub group_by: &'a [String],
    /// Tags that must have these values.
    pub filters: &'a [(String, String)],
}

impl MetricQuery<'_> {
    /// Formats the query.
    #[must_use]
    pub fn influxql(&self) -> String {
        let field = identifier(self.field);
        let value = match self.function {
            Function::Mean => format!("mean({field})"),
            Function::Min => format!("min({field})"),
            Function::Max => format!("max({field})"),
            Function::Last => format!("last({field})"),
            Function::P95 => format!("percentile({field}, 95)"),
            Function::Sum => format!("sum({field})"),
            Function::Count => format!("count({field})"),
        };
        let mut text = format!(
            "SELECT {value} AS \"value\" FROM {} WHERE {}",
            self.buckets.sources(self.measurement),
            of_device(self.project, self.device),
        );
        for (tag, expected) in self.filters {
            // Writing to a String cannot fail.
            let _ = write!(text, " AND {} = {}", identifier(tag), string(expected));
        }
        let (from, to) = (self.from.micros(), self.to.micros());
        let _ = write!(
            text,
            " AND time >= {from}u AND time < {to}u GROUP BY time({}u)",
            self.step.as_micros()
        );
        for tag in self.group_by {
            let _ = write!(text, ", {}", identifier(tag));
        }
        text.push_str(" fill(none)");
        text
    }
}

/// Formats the query of a device's measurements.
#[must_use]
pub fn measurements(project: &ProjectId, device: DeviceId) -> String {
    format!("SHOW MEASUREMENTS WHERE {}", of_device(project, device))
}

/// Formats the query of the fields of some measurements, with their types; `None` when no field may
/// be shown. InfluxQL cannot restrict fields to some series: the result includes the fields of the
/// project's other devices in the same measurements.
#[must_use]
pub fn field_keys(buckets: &MetricBuckets, measurements: &[String]) -> Option<String> {
    let sources: Vec<String> =
        measurements.iter().filter_map(|name| buckets.field_sources(name)).collect();
    (!sources.is_empty()).then(|| format!("SHOW FIELD KEYS FROM {}", sources.join(", ")))
}

/// Formats the query of the tags of a device's series in some measurements.
#[must_use]
pub fn tag_keys(project: &ProjectId, device: DeviceId, measurements: &[String]) -> String {
    let (from, of) = (list(measurements), of_device(project, device));
    format!("SHOW TAG KEYS FROM {from} WHERE {of}")
}

fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| identifier(name)).collect();
    names.join(", ")
}

fn of_device(project: &ProjectId, device: DeviceId) -> String {
    format!(
        "\"project\" = {} AND \"device_id\" = {}",
        string(project.as_str()),
        string(&device.to_string())
    )
}
