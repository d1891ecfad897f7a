//! Writes InfluxQL. Pure.
//!
//! Invariant: nothing that a client sends gets into a query but through [`identifier`] and
//! [`string`].

use std::fmt::Write as _;

use muster_schemas::{DeviceId, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::places::Places;

/// What becomes of the values of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Their mean.
    #[default]
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The newest.
    Last,
    /// The 95th percentile.
    P95,
    /// Their sum.
    Sum,
    /// How many they are.
    Count,
}

/// A question for one field of one device.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The project.
    pub project: &'a ProjectId,
    /// The device.
    pub device: DeviceId,
    /// Where its points may be.
    pub places: &'a Places,
    /// Such as `cpu`.
    pub measurement: &'a str,
    /// Such as `usage_user`.
    pub field: &'a str,
    /// From this time on.
    pub from: Timestamp,
    /// Up to this time, not included.
    pub to: Timestamp,
    /// Microseconds.
    pub step: i64,
    /// What becomes of the values of one step.
    pub function: Function,
    /// The tags that tell series apart.
    pub group_by: &'a [String],
    /// Tags that must have these values.
    pub filters: &'a [(String, String)],
}

impl Question<'_> {
    /// The query.
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
            self.places.sources(self.measurement),
            of_device(self.project, self.device),
        );
        for (tag, wanted) in self.filters {
            // Writing to a String cannot fail.
            let _ = write!(text, " AND {} = {}", identifier(tag), string(wanted));
        }
        let (from, to) = (self.from.micros(), self.to.micros());
        let _ = write!(text, " AND time >= {from}u AND time < {to}u GROUP BY time({}u)", self.step);
        for tag in self.group_by {
            let _ = write!(text, ", {}", identifier(tag));
        }
        text.push_str(" fill(none)");
        text
    }
}

/// Which measurements a device has.
#[must_use]
pub fn measurements(project: &ProjectId, device: DeviceId) -> String {
    format!("SHOW MEASUREMENTS WHERE {}", of_device(project, device))
}

/// Which fields some measurements have, with their types; `None` where there are none to show. InfluxQL
/// cannot restrict fields to some series: what other devices of the project have in the same
/// measurement is named too.
#[must_use]
pub fn field_keys(places: &Places, measurements: &[String]) -> Option<String> {
    let sources: Vec<String> =
        measurements.iter().filter_map(|name| places.field_sources(name)).collect();
    (!sources.is_empty()).then(|| format!("SHOW FIELD KEYS FROM {}", sources.join(", ")))
}

/// Which tags a device's series have in some measurements.
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

/// A name in double quotes.
pub(super) fn identifier(name: &str) -> String {
    quoted(name, '"')
}

/// A value in single quotes.
pub(super) fn string(value: &str) -> String {
    quoted(value, '\'')
}

fn quoted(text: &str, quote: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c == quote => {
                quoted.push('\\');
                quoted.push(c);
            }
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}
