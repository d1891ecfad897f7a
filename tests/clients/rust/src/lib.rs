//! The client that progenitor generates from the OpenAPI document.
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/client.rs"));
