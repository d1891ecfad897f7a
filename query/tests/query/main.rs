//! The read API as a client sees it, over the real servers.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![cfg(test)]

mod device_stream;
mod devices;
mod document;
mod event_streams;
mod events;
mod grafana;
mod live_metrics;
mod metrics;
mod paging;
mod projections;
mod support;
mod token_cache;
mod tokens;
