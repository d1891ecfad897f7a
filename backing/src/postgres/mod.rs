//! PostgreSQL: a cluster of our own, made at first start, reached over loopback with a password.
//!
//! Run by root, it runs as the user `postgres` (or `nobody`), who need not be able to walk the
//! path to its folder: see `server`.

mod cluster;
mod options;
mod server;

pub use options::{PostgresOptions, Tuning};
pub use server::{Postgres, PostgresError};
