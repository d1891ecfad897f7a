//! The key folder: small files, each readable by its owner only.
//!
//! Missing keys are created at the first start. Only the command role opens this folder; each other
//! role gets its own folder from it. Keys are never stored in PostgreSQL.

mod authority;
mod certificates;
mod config_secrets;
mod error;
mod files;
pub mod nats_jwt;
mod roles;
mod store;

pub use authority::verifier_in;
pub use certificates::{Certificates, Listener, certificate_expiry, create_certificates};
pub use error::KeyError;
pub use files::make_private_dir;
pub use roles::RoleKeys;
pub use store::{BrokerIdentity, KeyStore, RoleCredentials};

#[cfg(test)]
mod tests;
