//! InfluxDB 1.x (completely) and 2.x; the binary's version decides.
//!
//! InfluxDB 3 is refused with an error: it needs a separate deployment, whose address is configured
//! in muster.

mod bootstrap;
mod config;
mod credentials;
mod error;
mod flavor;
mod http;
mod options;
mod server;

pub use credentials::Credentials;
pub use error::InfluxError;
pub use flavor::Flavor;
pub use options::{Auth, InfluxOptions};
pub use server::{InfluxDb, credentials};
