//! Tests of the agent with a real broker and minimal servers.
#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests")]
#![expect(clippy::unwrap_used, reason = "a test fails by it, in its own helpers too")]

mod channels;
mod lifecycle;
mod operations;
mod process;
mod running;
mod support;
