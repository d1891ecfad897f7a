//! Ingest against a real broker and a real PostgreSQL.
#![cfg(test)]

mod metrics;
mod presence;
mod support;
