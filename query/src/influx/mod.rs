//! Metrics over time, asked of InfluxDB in InfluxQL, which 1.x, 2.x and 3.x all speak.
//!
//! `places` says where a project's points are, `influxql` writes the questions (pure), `client` asks them, `plan` chooses steps and refuses
//! what would be too much (pure). Writing metrics is ingest's affair.

mod client;
mod influxql;
mod places;
mod plan;

pub use client::{InfluxClient, InfluxCredentials, InfluxError, InfluxQueryOptions, Row};
pub use influxql::{Function, Question, field_keys, measurements, tag_keys};
pub use places::Places;
pub use plan::{MAX_POINTS, MAX_SERIES, Range, parse_duration, show_duration, too_many_points};

#[cfg(test)]
mod tests;
