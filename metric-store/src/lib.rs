//! Client of the metric store: InfluxDB 1.x, 2.x and 3.x, and stores that accept the same requests,
//! such as VictoriaMetrics.
//!
//! The crate is the only one that sends requests to the store. One [`StoreSettings`] has its address and
//! the credentials, one [`InfluxClient`] sends every request, and one [`StoreError`] names what
//! failed, where, and what to try.
//!
//! | part | used by |
//! |---|---|
//! | [`StoreSettings`], [`Credentials`], [`Api`] | all: the command line creates them, the roles use them |
//! | [`encode`], [`Lines`] (line protocol) | ingest |
//! | [`InfluxClient::pack`], [`InfluxClient::write_to`], [`WriteResponse`] | ingest; `muster doctor` |
//! | [`find_bad_lines`] and other facts in the store's messages | ingest |
//! | [`InfluxClient::query`], [`Row`] | query |
//! | [`identifier`], [`string`] (quoting for InfluxQL) | query; the statements of this crate |
//! | [`MetricBucket`], [`own_policy`] (the bucket of each project) | ingest, query, `muster grafana` |
//! | [`InfluxClient::retention_policies`] | query, `muster grafana` |
//! | [`InfluxClient::apply_retention`] (buckets of projects) | ingest |
//! | [`InfluxClient::create_database`], [`InfluxClient::set_up`] | ingest, backing, `muster bootstrap` |
//! | [`InfluxClient::create_administrator`], [`InfluxClient::grant_read`] | backing, `muster grafana` |
//! | [`InfluxClient::version`], [`InfluxClient::ping`], [`Flavor`] | ingest, backing, `muster doctor` |
//!
//! The crate has no state besides the detected API, and repeats no request except a refused change
//! of a bucket. The roles decide what to write and query, and when to repeat it.
//!
//! Invariant: text that is not a constant is part of an InfluxQL statement only through
//! [`identifier`] and [`string`].

mod bad_lines;
mod bucket;
mod bucket_setup;
mod client;
mod error;
mod flavor;
mod line_protocol;
mod query;
mod quoting;
mod response;
mod retention_policies;
mod settings;
mod setup;
mod statement;
mod users;
mod version;
mod write;

pub use bad_lines::{BadLines, dropped_points, find_bad_lines, is_past_retention};
pub use bucket::{MetricBucket, OWN_POLICY, own_bucket, own_policy};
pub use bucket_setup::shard_seconds;
pub use client::InfluxClient;
pub use error::StoreError;
pub use flavor::Flavor;
pub use line_protocol::{Lines, Origin, encode};
pub use query::Row;
pub use quoting::{identifier, string};
pub use retention_policies::{RetentionPolicies, RetentionPolicy};
pub use settings::{Api, Credentials, StoreSettings};
pub use setup::ADMINISTRATOR;
pub use version::Version;
pub use write::WriteResponse;
