//! The server: `muster serve`, `muster up`, and what prepares their first start.
//!
//! Invariant: this crate composes the roles and depends on them, not vice versa; it makes no domain
//! decisions.

pub mod bootstrap;
pub mod database_users;
mod error;
pub mod log_limit;
mod log_setup;
pub mod metric_store;
pub mod otlp;
pub mod prepare;
pub mod serve;
pub mod up;

pub use error::InvalidOption;
pub use serve::openapi_document;
