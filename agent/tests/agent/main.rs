//! The agent with a real broker and as much of its servers as it needs.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in its own helpers too")]

mod channels;
mod life;
mod operations;
mod process;
mod running;
mod support;
