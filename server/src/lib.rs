//! The server: `muster serve`, `muster up`, and what prepares their first start.
//!
//! Invariant: this crate composes the roles and depends on them, not vice versa; it makes no domain
//! decisions.

pub mod bootstrap;
pub mod database_users;
mod docs;
mod error;
pub mod log_limit;
mod log_setup;
pub mod metric_store;
mod openapi;
pub mod otlp;
pub mod prepare;
pub mod serve;
pub mod up;

pub use error::InvalidOption;
pub use openapi::{openapi_3_0_document, openapi_document};
