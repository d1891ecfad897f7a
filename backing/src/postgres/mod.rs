//! PostgreSQL: a separate cluster, created at the first start, reached over loopback with a
//! password.
//!
//! Under root, it runs as the user `postgres` (or `nobody`), who need not be able to traverse the
//! path to its folder: see `server`.

mod cluster;
mod error;
mod options;
mod server;

pub use error::PostgresError;
pub use options::{PostgresOptions, Tuning};
pub use server::Postgres;
