//! Metrics from the broker to the metric store: line protocol, an InfluxDB client, a batcher.
//!
//! The [`reader`] encodes each message as [`Lines`], submits them to a [`MetricSink`], and
//! acknowledges the message when its [`Completion`] reports it as written or rejected.
//!
//! ```text
//! reader ─▶ encode (pure) ─▶ MetricSink::submit ─▶ batcher ─▶ writer ─▶ InfluxClient
//!    ▲                          (waits for room)              (retries, splits, isolates)
//!    └──────────────── Completion: Written | Rejected | Abandoned ──────┘
//! ```

mod backoff;
mod bad_lines;
mod batch;
mod batcher;
mod bucket;
mod bucket_setup;
mod buckets;
mod client;
mod counters;
mod drop_reason;
mod limits;
mod line_protocol;
mod names;
mod pruning;
pub mod reader;
mod response;
mod series;
mod setup;
mod sink;
mod sink_settings;
mod store_settings;
mod writer;

pub use batch::{Outcome, RejectedLine};
pub use bucket::MetricBucket;
pub use bucket_setup::BucketError;
pub use buckets::MetricBuckets;
pub use client::{ClientError, InfluxClient};
pub(crate) use counters::export_counters;
pub use counters::{SinkCounters, SinkSnapshot};
pub use limits::DeviceLimits;
pub use line_protocol::{Lines, Origin, encode};
pub use response::{Version, WriteResponse};
pub use sink::{Completion, MetricSink, SinkClosed, SinkTask};
pub use sink_settings::SinkSettings;
pub use store_settings::{Api, StoreSettings};
