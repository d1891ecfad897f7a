//! The read API as a client sees it, over the real servers.
#![cfg(test)]

mod devices;
mod document;
mod events;
mod grafana;
mod live_metrics;
mod metrics;
mod paging;
mod projections;
mod support;
mod tokens;
