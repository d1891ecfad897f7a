//! Shared parts of the HTTP APIs of the roles command and query: problems, authentication, and the
//! conventions of requests and responses.
//!
//! Invariant: this crate has no route and no resource. It reads the event log only for tokens and
//! the names of projects.

#![cfg_attr(test, allow(clippy::too_many_lines, reason = "a test is a sequence of steps"))]

pub mod auth;
pub mod body;
pub mod cursor;
pub mod etag;
pub mod fallback;
pub mod idempotency;
mod messages;
pub mod page;
pub mod params;
mod pointer;
pub mod position;
pub mod problem;
mod schema;
mod state;

pub use auth::{Allowed, Principal, Scope};
pub use body::Json;
pub use cursor::Cursor;
pub use etag::{IfMatch, etag};
pub use idempotency::IdempotencyKey;
pub use page::Limit;
pub use params::{PathParam, Query};
pub use position::{MinPosition, position_header};
pub use problem::Problem;
pub use state::ApiState;

#[cfg(test)]
mod tests;
