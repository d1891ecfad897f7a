//! TLS that trusts one CA and nothing else, whatever the device's clock says.
//!
//! Before enrollment the CA is known by its pin (the enrollment token carries it), afterwards by
//! its certificate. The system's own CAs are never asked. Certificates are not held to their
//! validity in time: a device whose clock stands at 1970 must still be able to come back, and the
//! pin, not the calendar, is what the trust rests on.

#[cfg(test)]
mod tests;
mod verifier;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;

pub use verifier::{PinnedCa, TrustError, Verifier};

/// The TLS configuration of a client that trusts this CA.
///
/// # Errors
/// When the CA's certificate cannot be used.
pub fn client_config(verifier: Arc<Verifier>) -> Result<ClientConfig, TrustError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Protocol)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // Connections live for hours; room for tickets would only cost memory.
    config.resumption = Resumption::disabled();
    Ok(config)
}
