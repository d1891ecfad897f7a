//! Ingest against a real broker and a real PostgreSQL.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![allow(clippy::needless_pass_by_value, reason = "helpers that are easy to call")]
#![cfg(test)]

mod metrics;
mod presence;
mod support;
