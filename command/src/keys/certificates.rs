//! The CA of a server, and a certificate with its own key for each listener.
//!
//! Keys are created once; a certificate is issued at each start, so it has the machine's current
//! names, and a pin of the CA's key or of the HTTPS listener's key stays valid.

use std::fs;
use std::path::{Path, PathBuf};

use muster_files::write_private;
use muster_schemas::{Hash, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use time::{Duration, OffsetDateTime};

use super::error::{KeyError, unusable};
use super::files;

/// A listener. Each has its own key, so that a stolen one cannot impersonate another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The HTTPS listener that devices and clients reach; installers pin its key.
    Https,
    /// The role ingest.
    Ingest,
    /// The role command, as a separate process.
    Command,
    /// The broker, nats-server.
    Broker,
    /// PostgreSQL.
    Postgres,
}

impl Listener {
    /// The prefix of its files' names.
    const fn stem(self) -> &'static str {
        match self {
            Self::Https => "server",
            Self::Ingest => "ingest",
            Self::Command => "command",
            Self::Broker => "nats",
            Self::Postgres => "postgres",
        }
    }
}

/// Paths of the certificates.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The CA's certificate, PEM.
    pub ca: PathBuf,
    /// The server's certificate followed by the CA's, PEM: a client that pins the CA's key finds it
    /// in the chain.
    pub chain: PathBuf,
    /// The server's key, PEM.
    pub key: PathBuf,
}

/// Creates missing keys, and issues the listener's certificate in any case.
pub fn create_certificates(
    dir: &Path,
    listener: Listener,
    names: &[String],
    now: Timestamp,
) -> Result<Certificates, KeyError> {
    let stem = listener.stem();
    let paths = Certificates {
        ca: dir.join("ca.pem"),
        chain: dir.join(format!("{stem}.pem")),
        key: dir.join(format!("{stem}.key")),
    };
    let now = now.to_datetime();
    let ca_key = load_key(&dir.join("ca.key"))?;
    let ca_pem = files::load_or_create(&paths.ca, || {
        let certificate = ca_params(now)?.self_signed(&ca_key)?;
        Ok(certificate.pem().into_bytes())
    })?;
    let ca_pem = String::from_utf8(ca_pem).map_err(|_| unusable(&paths.ca, "it is not text"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;

    let server_key = load_key(&paths.key)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, format!("muster {stem}"));
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(397);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&server_key, &issuer)?;
    write_private(&paths.chain, format!("{}{ca_pem}", certificate.pem()).as_bytes())?;
    Ok(paths)
}

fn ca_params(now: OffsetDateTime) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "muster CA");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(20 * 365);
    Ok(params)
}

fn load_key(path: &Path) -> Result<KeyPair, KeyError> {
    let pem =
        files::load_or_create(path, || Ok(KeyPair::generate()?.serialize_pem().into_bytes()))?;
    let text = String::from_utf8(pem).map_err(|_| unusable(path, "it is not text"))?;
    KeyPair::from_pem(&text).map_err(|error| unusable(path, error.to_string()))
}

/// Returns when a certificate expires; the first one of a PEM file.
///
/// # Errors
/// When the file cannot be read, or contains no certificate.
pub fn certificate_expiry(path: &Path) -> Result<Timestamp, KeyError> {
    let bytes = fs::read(path).map_err(|source| KeyError::File {
        attempted: "read",
        path: path.to_owned(),
        source,
    })?;
    let no_certificate = |problem: String| unusable(path, format!("no certificate: {problem}"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes)
        .map_err(|error| no_certificate(error.to_string()))?;
    let certificate = pem.parse_x509().map_err(|error| no_certificate(error.to_string()))?;
    Ok(Timestamp(certificate.validity().not_after.timestamp().saturating_mul(1_000_000)))
}

impl Certificates {
    /// Returns the pin of the server's key, in the format of curl's `--pinnedpubkey`. The key is
    /// kept when its certificate is renewed.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn pin(&self) -> Result<String, KeyError> {
        let pin = Hash::of(&read_key(&self.key)?.subject_public_key_info());
        Ok(format!("sha256//{}", data_encoding::BASE64.encode(&pin.0)))
    }
}

/// Returns the SHA-256 of the CA's SubjectPublicKeyInfo.
pub(super) fn ca_pin(dir: &Path) -> Result<Hash, KeyError> {
    Ok(Hash::of(&read_key(&dir.join("ca.key"))?.subject_public_key_info()))
}

fn read_key(path: &Path) -> Result<KeyPair, KeyError> {
    let pem = fs::read_to_string(path).map_err(|source| KeyError::File {
        attempted: "read",
        path: path.to_owned(),
        source,
    })?;
    KeyPair::from_pem(&pem).map_err(|error| unusable(path, error.to_string()))
}
