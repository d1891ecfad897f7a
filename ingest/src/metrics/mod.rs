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
mod batcher;
mod bucket_setup;
mod buckets;
mod client;
mod counters;
mod limits;
mod line_protocol;
mod names;
mod pruning;
pub mod reader;
mod response;
mod series;
mod setup;
mod sink;
mod writer;

pub use bucket_setup::BucketError;
pub use buckets::{MetricBucket, MetricBuckets};
pub use client::{Api, ClientError, InfluxClient, StoreSettings};
pub use counters::{SinkCounters, SinkSnapshot};
pub use limits::DeviceLimits;
pub(crate) use limits::DropReason;
pub use line_protocol::{Lines, Origin, encode};
pub use response::{Version, WriteResponse};
pub use sink::{Completion, MetricSink, Outcome, RejectedLine, SinkClosed, SinkSettings, SinkTask};
