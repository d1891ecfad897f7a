//! The health of a device, and comparisons, from its newest values. Pure.

use muster_api_types::metrics::{MetricsSummary, SummaryMetric};
use muster_schemas::Timestamp;
use muster_schemas::metrics::FieldValue;
use muster_schemas::selector::{Comparison, Metric};

use super::series::{DeviceSeries, LatestPoint, encoded_name};

/// Creates the summary of a device.
pub(super) fn of(series: &DeviceSeries, now: Timestamp) -> MetricsSummary {
    let mut stale = Vec::new();
    let mut value = |metric: SummaryMetric,
                     measurement: &str,
                     read: &dyn Fn(&LatestPoint) -> Option<f64>| {
        let name = encoded_name(measurement);
        let read = series.points_of(&name, now).filter_map(|point| Some((read(&point)?, point)));
        let (value, point) = read.min_by_key(|(_, point)| point.age)?;
        if point.is_stale {
            stale.push(metric.into());
        }
        Some(value)
    };
    let cpu_percent = value(SummaryMetric::Cpu, "cpu", &|point| {
        let idle = || number(point, "usage_idle").map(|idle| 100.0 - idle);
        let is_total = is_tagged(point, "cpu", "cpu-total");
        is_total.then(|| number(point, "usage_active").or_else(idle))?
    });
    let memory_percent = value(SummaryMetric::Memory, "mem", &|p| number(p, "used_percent"));
    let disk_percent = value(SummaryMetric::Disk, "disk", &|point| {
        is_tagged(point, "path", "/").then(|| number(point, "used_percent"))?
    });
    let battery_percent = value(SummaryMetric::Battery, "battery", &|p| number(p, "percent"));
    // Only the agent's own measurement: an application may have a field of this name.
    let own = encoded_name("muster_agent");
    let skews =
        series.points_of(&own, now).filter_map(|point| match field(&point, "clock_skew_us")? {
            FieldValue::Int(skew) => Some((*skew, point.age, point.is_stale)),
            _ => None,
        });
    let skew = skews.min_by_key(|(_, age, _)| *age);
    if skew.is_some_and(|(_, _, is_stale)| is_stale) {
        stale.push(SummaryMetric::ClockSkew.into());
    }
    MetricsSummary {
        cpu_percent,
        memory_percent,
        disk_percent,
        battery_percent,
        clock_skew_seconds: skew.map(|(skew, ..)| seconds(skew)),
        stale,
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// The result of a comparison with the values of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A fresh value satisfies it.
    Matches,
    /// There are fresh values, and none satisfies it.
    Differs,
    /// There is no fresh value.
    Unknown,
}

/// Compares the values of a measurement's series; one fresh match is enough. Without tags in the
/// metric, only the total of `cpu` is compared.
pub(super) fn verdict(
    points: impl Iterator<Item = LatestPoint>,
    metric: &Metric,
    comparison: Comparison,
    limit: f64,
) -> Verdict {
    let mut verdict = Verdict::Unknown;
    for point in points.filter(|point| !point.is_stale && is_selected(point, metric)) {
        match number(&point, &metric.field) {
            Some(value) if comparison.holds(value, limit) => return Verdict::Matches,
            Some(_) => verdict = Verdict::Differs,
            None => {}
        }
    }
    verdict
}

fn is_selected(point: &LatestPoint, metric: &Metric) -> bool {
    if metric.tags.is_empty() {
        return metric.measurement != "cpu" || is_tagged(point, "cpu", "cpu-total");
    }
    metric
        .tags
        .iter()
        .all(|test| point.tags.iter().any(|(name, value)| test.holds(name.as_str(), value)))
}

fn is_tagged(point: &LatestPoint, name: &str, value: &str) -> bool {
    point.tags.iter().any(|(key, found)| key.as_str() == name && found == value)
}

fn field<'a>(point: &'a LatestPoint, name: &str) -> Option<&'a FieldValue> {
    let found = point.fields.iter().find(|(key, _)| key.as_str() == name);
    found.map(|(_, value)| value)
}

fn number(point: &LatestPoint, name: &str) -> Option<f64> {
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
