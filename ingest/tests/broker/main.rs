//! Ingest against a real broker and a real PostgreSQL.
#![allow(clippy::needless_pass_by_value, reason = "helpers that are easy to call")]
#![cfg(test)]

mod metrics;
mod presence;
mod support;
