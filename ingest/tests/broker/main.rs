//! Ingest against a real broker and a real PostgreSQL.
#![cfg(test)]

mod presence;
mod support;
