//! The read side of muster: it projects the log into read models, and serves them.
//!
//! Projections are pure folds ([`projections`]); the newest metrics live in memory ([`latest`]);
//! metrics over time come from InfluxDB ([`influx`]); the past is folded from the log ([`travel`]).
//!
//! Invariant: nothing here decides anything or appends an event. Read models are written by
//! projections alone.

mod append_reports;
pub mod grafana;
mod http;
pub mod influx;
pub mod latest;
mod live_streams;
pub mod projections;
mod start;
mod state;
mod targets;
mod timeline;
pub mod travel;
mod walk_rate;

pub use append_reports::AppendReports;
pub use http::{openapi, openapi_info, router};
pub use live_streams::{DEFAULT_STREAMS_PER_TOKEN, LiveStreams};
pub use start::{PROJECTIONS, Query, QueryOptions, StartError, make_tables};
pub use state::{QueryState, ReadModels};
pub use walk_rate::{DEFAULT_WALKS_PER_MINUTE, WalkRate};
