//! Joining a project, and getting broker credentials ever after.
//!
//! Records no event and opens no broker connection.
//!
//! Invariant: keys and nonce are on the disk before the server is asked, so an answer that was
//! lost is asked for again, by the same device.

mod credentials;
mod join;

pub use credentials::{CredentialsError, fetch_credentials};
pub use join::{CA_FILE, EnrollError, EnrollOptions, Enrolled, enroll, fingerprint};
