//! The CA that `muster up` makes for itself, and a certificate with a key of its own for each server
//! that listens.
//!
//! The keys are made once and kept; a certificate is made anew at each start, so it names what the
//! machine is called now, and a pin on the CA's key or on that of the HTTPS listener holds.

use std::fs;
use std::path::{Path, PathBuf};

use muster_schemas::{Hash, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use time::{Duration, OffsetDateTime};

use super::{KeyError, files, unusable};

/// A server that listens: each has a key of its own, so that one that is stolen is no other server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The HTTPS listener that devices and people reach; installers pin its key.
    Https,
    /// The role ingest.
    Ingest,
    /// The role command, as a process of its own.
    Command,
    /// nats-server.
    Broker,
    /// PostgreSQL.
    Postgres,
}

impl Listener {
    /// The name of its files.
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

/// Where the certificates are.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The CA's certificate, PEM.
    pub ca: PathBuf,
    /// The server's certificate and then the CA's, PEM: a client that pins the CA's key finds it in
    /// the chain.
    pub chain: PathBuf,
    /// The server's key, PEM.
    pub key: PathBuf,
}

/// Makes what is missing, and the listener's certificate in any case.
pub fn make_certificates(
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
    let ca_pem = files::load_or_make(&paths.ca, || {
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
    files::write_private(&paths.chain, format!("{}{ca_pem}", certificate.pem()).as_bytes())?;
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
    let pem = files::load_or_make(path, || Ok(KeyPair::generate()?.serialize_pem().into_bytes()))?;
    let text = String::from_utf8(pem).map_err(|_| unusable(path, "it is not text"))?;
    KeyPair::from_pem(&text).map_err(|error| unusable(path, error.to_string()))
}

/// Until when a certificate is good; the first one of a PEM file.
///
/// # Errors
/// When the file cannot be read, or holds none.
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
    /// The pin of the server's key, as curl's `--pinnedpubkey` takes it. The key stays when its
    /// certificate is made anew.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn pin(&self) -> Result<String, KeyError> {
        let pin = Hash::of(&read_key(&self.key)?.subject_public_key_info());
        Ok(format!("sha256//{}", data_encoding::BASE64.encode(&pin.0)))
    }
}

/// SHA-256 of the CA's SubjectPublicKeyInfo.
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
