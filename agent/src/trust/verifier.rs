//! The verifier: the pinned CA must have signed the server's certificate, for this host.

use std::sync::Arc;

use muster_schemas::Hash;
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The reason why no certificate can be verified.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The stored CA is not a certificate.
    #[error("the pinned CA certificate is invalid; enroll again with --force")]
    UnusableCa(#[source] Error),
    /// The host is not valid in a certificate.
    #[error("'{0}' is neither a host name nor an address")]
    Host(String),
    /// rustls offers no protocol version.
    #[error("failed to set up TLS")]
    Protocol(#[source] Error),
}

/// How the CA is identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinnedCa {
    /// SHA-256 of its SubjectPublicKeyInfo: the server sends the certificate in its chain.
    Pin(Hash),
    /// Its certificate, DER.
    Certificate(CertificateDer<'static>),
}

/// Verifies servers by one CA.
#[derive(Debug)]
pub struct Verifier {
    ca: PinnedCa,
    /// Expected host of the certificate, if the connection is indirect.
    host: Option<ServerName<'static>>,
    /// The CA's certificate, once a server has sent it and was verified by it.
    ca_certificate: Mutex<Option<CertificateDer<'static>>>,
    /// The reason why the last server was not trusted, as a message: rustls reports only error
    /// codes.
    refusal: Mutex<Option<String>>,
}

impl Verifier {
    /// Trusts only this CA.
    #[must_use]
    pub fn new(ca: PinnedCa) -> Arc<Self> {
        Self::with(ca, None)
    }

    /// Trusts only this CA, for this host, independent of the address of the connection.
    ///
    /// # Errors
    /// When the host is neither a name nor an address.
    pub fn for_host(ca: PinnedCa, host: &str) -> Result<Arc<Self>, TrustError> {
        let host =
            ServerName::try_from(host.to_owned()).map_err(|_| TrustError::Host(host.to_owned()))?;
        Ok(Self::with(ca, Some(host)))
    }

    fn with(ca: PinnedCa, host: Option<ServerName<'static>>) -> Arc<Self> {
        Arc::new(Self { ca, host, ca_certificate: Mutex::new(None), refusal: Mutex::new(None) })
    }

    /// Returns the CA's certificate, if a server was verified by it.
    #[must_use]
    pub fn ca(&self) -> Option<CertificateDer<'static>> {
        if let PinnedCa::Certificate(ca) = &self.ca {
            return Some(ca.clone());
        }
        self.ca_certificate.lock().clone()
    }

    /// Returns the reason why the last server was not trusted; `None` if it was, or there was none.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    fn find_ca(&self, chain: &[CertificateDer<'_>]) -> Result<CertificateDer<'static>, Error> {
        match &self.ca {
            PinnedCa::Certificate(ca) => Ok(ca.clone()),
            PinnedCa::Pin(pin) => chain
                .iter()
                .find(|certificate| spki_hash(certificate) == Some(*pin))
                .map(|certificate| certificate.clone().into_owned())
                .ok_or_else(|| Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }
}

/// Formats the reason why a certificate is not trusted, to help an operator find an intercepting
/// host.
fn describe(error: &Error, ca: &PinnedCa, host: &ServerName<'_>) -> String {
    match (error, ca) {
        (Error::InvalidCertificate(CertificateError::UnknownIssuer), PinnedCa::Pin(pin)) => {
            format!(
                "the server's certificate chain contains no CA with the pin of the token \
                 ({pin}); check the URL, and that the token is from this server"
            )
        }
        (
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ),
            _,
        ) => "the server's certificate is not signed by the CA that this device pinned; check \
              whether the server has a new CA, or a proxy intercepts TLS"
            .to_owned(),
        (
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ),
            _,
        ) => {
            let host = host.to_str();
            format!(
                "the server's certificate is not for {host}; use one of the server's other names in \
                 --url, or start the server with --name {host}"
            )
        }
        _ => format!("the server's certificate is invalid: {error}"),
    }
}

fn spki_hash(certificate: &CertificateDer<'_>) -> Option<Hash> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(Hash::of(&parsed.subject_public_key_info()))
}

/// Creates a verifier with this CA as the only root.
fn webpki(ca: CertificateDer<'static>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

impl Verifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Not the end entity: the pinned certificate is that of the CA, not that of the server.
        let ca = self.find_ca(intermediates)?;
        let verifier = webpki(ca.clone())?;
        let mut at = now;
        // Each certificate of the chain can cause one correction of the time into its validity
        // period.
        for _ in 0..=intermediates.len() + 1 {
            let outcome = verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                at,
            );
            at = match outcome {
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                    not_after,
                    ..
                })) => not_after,
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before,
                    ..
                })) => not_before,
                Ok(verified) => {
                    *self.ca_certificate.lock() = Some(ca);
                    return Ok(verified);
                }
                Err(error) => return Err(error),
            };
        }
        Err(Error::InvalidCertificate(CertificateError::Expired))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let server_name = self.host.as_ref().unwrap_or(server_name);
        let outcome = self.verify(end_entity, intermediates, server_name, ocsp_response, now);
        let message = outcome.as_ref().err().map(|error| describe(error, &self.ca, server_name));
        *self.refusal.lock() = message;
        outcome
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
