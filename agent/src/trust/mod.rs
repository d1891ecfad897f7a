//! TLS that trusts exactly one CA, independent of the device's clock.
//!
//! Before enrollment the CA is identified by its pin (in the enrollment token), afterwards by its
//! certificate. The system's CAs are never used. The validity period of certificates is ignored: a
//! device whose clock is at 1970 must still be able to reconnect, and trust is based on the pin,
//! not on the calendar.

#[cfg(test)]
mod tests;
mod verifier;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;

pub use verifier::{PinnedCa, TrustError, Verifier};

/// Returns the TLS configuration of a client that trusts this CA.
///
/// # Errors
/// When the CA's certificate is invalid.
pub fn client_config(verifier: Arc<Verifier>) -> Result<ClientConfig, TrustError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Protocol)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // Connections last for hours; a cache of session tickets would waste memory.
    config.resumption = Resumption::disabled();
    Ok(config)
}
