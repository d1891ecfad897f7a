//! InfluxDB 1.x (completely) and 2.x; the binary's version decides.
//!
//! Its requests are those of the crate `muster-metric-store`.
//!
//! InfluxDB 3 is refused with an error: it needs a separate deployment, whose address is configured
//! in muster.

mod bootstrap;
mod config;
mod credentials;
mod error;
mod options;
mod server;

pub use error::InfluxError;
pub use muster_metric_store::{Credentials, Flavor};
pub use options::{Auth, InfluxOptions};
pub use server::{InfluxDb, credentials};
