//! Folders of the other roles, created from the key folder: each has the role's broker credentials,
//! and no key that could authorize others.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use muster_files::write_private;
use muster_schemas::authority::AuthorityVerifier;
use muster_schemas::{SigningKey, Timestamp};

use super::certificates::{Certificates, Listener};
use super::error::{KeyError, unusable};
use super::store::{KeyStore, RESPONSE_KEY, RoleCredentials};
use super::{authority, files};

const BROKER: &str = "nats.creds";
const SYSTEM: &str = "system.creds";
const ACCOUNT: &str = "nats-account.pub";
const CA: &str = "ca.pem";
const CHAIN: &str = "server.pem";
const KEY: &str = "server.key";

/// Keys and certificates of a role.
#[derive(Clone, Debug)]
pub struct RoleKeys {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// Credentials of the servers' account, as the text of a NATS credentials file.
    pub broker: RoleCredentials,
    /// Credentials of the system account, for the roles that observe or close connections.
    pub system: Option<RoleCredentials>,
    /// Public key of the devices' account.
    pub account: String,
    /// The server's certificate and key, for roles with a listener.
    pub certificates: Option<Certificates>,
    /// Key with which the query role signs its responses to command.
    pub response_key: Option<SigningKey>,
    /// Verifier of the authority of events.
    pub authority: AuthorityVerifier,
}

impl RoleKeys {
    /// Opens a role's folder: `dir` itself, or `dir/roles/<role>` when `dir` is the key folder.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn open(dir: &Path, role: &str) -> Result<Self, KeyError> {
        let inner = dir.join("roles").join(role);
        let dir = if inner.is_dir() { inner } else { dir.to_owned() };
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => unusable(
                    &path,
                    format!(
                        "it does not exist: `muster bootstrap` creates the keys of the role {role}"
                    ),
                ),
                _ => KeyError::File { attempted: "read", path, source },
            })
        };
        let system = dir.join(SYSTEM).exists().then(|| read(SYSTEM)).transpose()?;
        let chain = dir.join(CHAIN);
        let response_key =
            dir.join(RESPONSE_KEY).exists().then(|| read(RESPONSE_KEY)).transpose()?;
        let response_key = response_key.map(|text| {
            let seed = BASE64URL_NOPAD.decode(text.trim().as_bytes()).ok();
            let seed: Option<[u8; 32]> = seed.and_then(|bytes| bytes.try_into().ok());
            seed.ok_or_else(|| unusable(&dir.join(RESPONSE_KEY), "it contains no key"))
        });
        let response_key = response_key.transpose()?;
        Ok(Self {
            authority: authority::parse(
                &dir.join(authority::PUBLIC_FILE),
                &read(authority::PUBLIC_FILE)?,
            )?,
            response_key: response_key.map(|seed| SigningKey::from_seed(&seed)),
            ca: dir.join(CA),
            broker: RoleCredentials(read(BROKER)?),
            system: system.map(RoleCredentials),
            account: read(ACCOUNT)?.trim().to_owned(),
            certificates: chain.exists().then(|| Certificates {
                ca: dir.join(CA),
                key: dir.join(KEY),
                chain,
            }),
        })
    }
}

impl KeyStore {
    /// Returns a role's keys, for a role in the process that has all of them.
    ///
    /// # Errors
    /// When a key cannot be read or created.
    pub fn role_keys(&self, role: &str) -> Result<RoleKeys, KeyError> {
        Ok(RoleKeys {
            ca: self.dir.join(CA),
            broker: self.role_credentials(role)?,
            system: Some(self.system_credentials()?),
            account: self.device_account(),
            certificates: None,
            response_key: (role == "query").then(|| self.query_key.clone()),
            authority: self.authority_verifier().public_half(),
        })
    }

    /// Writes the folders `roles/ingest` and `roles/query`, to be copied to the processes of those
    /// roles, with a server certificate for these names. Must be repeated within a year, when the
    /// certificate expires: the new one has the same key.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write_role_folders(&self, names: &[String], now: Timestamp) -> Result<(), KeyError> {
        let copy = |from: &Path, to: &Path| {
            let bytes = fs::read(from).map_err(|source| KeyError::File {
                attempted: "read",
                path: from.to_owned(),
                source,
            })?;
            write_private(to, &bytes).map_err(KeyError::from)
        };
        for (role, listener) in [("ingest", Listener::Ingest), ("query", Listener::Https)] {
            let made = self.certificates(listener, names, now)?;
            let dir = self.dir.join("roles").join(role);
            files::make_private_dir(&dir, &[BROKER])?;
            let broker = self.role_credentials(role)?;
            write_private(&dir.join(BROKER), broker.0.as_bytes())?;
            write_private(&dir.join(ACCOUNT), self.device_account().as_bytes())?;
            let authority = authority::text(&self.authority_verifier());
            write_private(&dir.join(authority::PUBLIC_FILE), authority.as_bytes())?;
            copy(&made.ca, &dir.join(CA))?;
            if role == "ingest" {
                let system = self.system_credentials()?;
                write_private(&dir.join(SYSTEM), system.0.as_bytes())?;
            } else {
                let seed = files::load_or_create_seed(&self.dir.join(RESPONSE_KEY))?;
                let text = BASE64URL_NOPAD.encode(&seed);
                write_private(&dir.join(RESPONSE_KEY), text.as_bytes())?;
            }
            copy(&made.chain, &dir.join(CHAIN))?;
            copy(&made.key, &dir.join(KEY))?;
        }
        Ok(())
    }
}
