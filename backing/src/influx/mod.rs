//! InfluxDB 1.x (in full) and 2.x, found out by asking the binary.
//!
//! InfluxDB 3 is refused with an error: there it is a deployment of its own, and muster is given
//! its address instead.

mod bootstrap;
mod config;
mod flavor;
mod http;
mod options;
mod server;

pub use flavor::Flavor;
pub use options::{Auth, InfluxOptions};
pub use server::{Credentials, InfluxDb, InfluxError, credentials};
