//! Enrollment in a project, and broker credentials afterwards.
//!
//! This module records no event and opens no broker connection.
//!
//! Invariant: keys and nonce are on disk before the request is sent, so after a lost response the
//! same device repeats it.

mod credentials;
mod join;

pub use credentials::{CredentialsError, fetch_credentials};
pub use join::{CA_FILE, EnrollError, EnrollOptions, Enrolled, enroll, fingerprint};
