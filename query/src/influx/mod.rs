//! Queries of metrics over time, in InfluxQL, which InfluxDB 1.x, 2.x and 3.x support.
//!
//! `buckets` finds the buckets of a project's points, `influxql` formats the queries (pure),
//! `reader` executes them, `plan` chooses steps and refuses results that would be too large (pure).
//! Ingest writes the metrics.

mod buckets;
mod influxql;
mod metric_buckets;
mod plan;
mod policy_cache;
mod reader;

pub use influxql::{Function, MetricQuery, field_keys, measurements, tag_keys};
pub use metric_buckets::MetricBuckets;
pub use plan::{MAX_POINTS, MAX_SERIES, Range, parse_duration, show_duration, too_many_points};
pub use reader::MetricReader;

#[cfg(test)]
mod tests;
