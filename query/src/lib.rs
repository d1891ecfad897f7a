//! The query role: projects the log into read models, and serves the read API.
//!
//! Projections are pure folds ([`projections`]); the newest metrics are in memory ([`latest`]);
//! metrics over time come from InfluxDB ([`influx`]); point-in-time queries fold the log
//! ([`point_in_time`]).
//!
//! Invariant: this crate makes no decisions and appends no events. Only projections write read
//! models.

mod append_reports;
mod device_windows;
pub mod grafana;
mod http;
pub mod influx;
pub mod latest;
mod live_streams;
pub mod point_in_time;
pub mod projections;
mod start;
mod state;
mod targets;
mod timeline;
mod walk_rate;

pub use append_reports::AppendReports;
pub use http::{openapi, openapi_info, router};
pub use live_streams::{DEFAULT_STREAMS_PER_TOKEN, LiveStreams};
pub use start::{Query, QueryOptions, StartError, create_tables};
pub use state::{PROJECTIONS, QueryState, ReadModels};
pub use walk_rate::{DEFAULT_WALKS_PER_MINUTE, WalkRate};
