//! Metrics from the broker to the metric store: limits, a batcher, a writer that repeats requests.
//!
//! The [`reader`] encodes each message as [`muster_metric_store::Lines`], submits them to a [`MetricSink`], and
//! acknowledges the message when its [`Completion`] reports it as written or rejected.
//!
//! ```text
//! reader ─▶ encode (pure) ─▶ MetricSink::submit ─▶ batcher ─▶ writer ─▶ InfluxClient
//!    ▲                          (waits for room)              (retries, splits, isolates)
//!    └──────────────── Completion: Written | Rejected | Abandoned ──────┘
//! ```

mod backoff;
mod batch;
mod batcher;
mod buckets;
mod counters;
mod drop_reason;
mod limits;
mod names;
mod pruning;
pub mod reader;
mod series;
mod sink;
mod sink_settings;
mod writer;

pub use batch::{Outcome, RejectedLine};
pub use buckets::MetricBuckets;
pub(crate) use counters::export_counters;
pub use counters::{SinkCounters, SinkSnapshot};
pub use limits::DeviceLimits;
pub use sink::{Completion, MetricSink, SinkClosed, SinkTask};
pub use sink_settings::SinkSettings;
