//! What the other roles get out of the folder of keys: each a folder of its own, with its way into
//! the broker and nothing by which anybody else could be let in.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::authority::AuthorityVerifier;
use muster_schemas::{SigningKey, Timestamp};

use super::{
    Certificates, KeyError, KeyStore, Listener, RoleCredentials, authority, files, unusable,
};

const BROKER: &str = "nats.creds";
const SYSTEM: &str = "system.creds";
const ACCOUNT: &str = "nats-account.pub";
const CA: &str = "ca.pem";
const CHAIN: &str = "server.pem";
const KEY: &str = "server.key";
/// What the query role seals its answers to command with: 32 bytes; in the role's folder, as all that
/// is there, text (base64url).
pub(super) const ANSWERS: &str = "answers.seed";

/// What a role needs to reach the broker, and to be reached.
#[derive(Clone, Debug)]
pub struct RoleKeys {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// Credentials for the servers' account, as the text of a NATS credentials file.
    pub broker: RoleCredentials,
    /// The way into the system account, for the roles that see connections or close them.
    pub system: Option<RoleCredentials>,
    /// The public key of the devices' account.
    pub account: String,
    /// The server's certificate and key, for the roles that listen.
    pub certificates: Option<Certificates>,
    /// What the query role seals its answers to command with.
    pub answers: Option<SigningKey>,
    /// Verifies the authority of events.
    pub authority: AuthorityVerifier,
}

impl RoleKeys {
    /// Opens a role's folder: `dir` itself, or `dir/roles/<role>` when `dir` is the folder that all
    /// keys are in.
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
                        "it is not there: `muster bootstrap` makes the keys of the role {role}"
                    ),
                ),
                _ => KeyError::File { attempted: "read", path, source },
            })
        };
        let system = dir.join(SYSTEM).exists().then(|| read(SYSTEM)).transpose()?;
        let chain = dir.join(CHAIN);
        let answers = dir.join(ANSWERS).exists().then(|| read(ANSWERS)).transpose()?;
        let answers = answers.map(|text| {
            let seed = BASE64URL_NOPAD.decode(text.trim().as_bytes()).ok();
            let seed: Option<[u8; 32]> = seed.and_then(|bytes| bytes.try_into().ok());
            seed.ok_or_else(|| unusable(&dir.join(ANSWERS), "it holds no key"))
        });
        let answers = answers.transpose()?;
        Ok(Self {
            authority: authority::parse(&dir.join(authority::PUBLIC), &read(authority::PUBLIC)?)?,
            answers: answers.map(|seed| SigningKey::from_seed(&seed)),
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
    /// A role's keys, for a role in the process that has all of them.
    ///
    /// # Errors
    /// When a key cannot be read or made.
    pub fn role_keys(&self, role: &str) -> Result<RoleKeys, KeyError> {
        Ok(RoleKeys {
            ca: self.dir.join(CA),
            broker: self.role_credentials(role)?,
            system: Some(self.system_credentials()?),
            account: self.device_account(),
            certificates: None,
            answers: (role == "query").then(|| self.query_key.clone()),
            authority: self.authority_verifier().public_half(),
        })
    }

    /// Writes the folders `roles/ingest` and `roles/query`, each to be handed to the processes of
    /// that role; the server's certificate in it is for these names. To be done again before a year
    /// has passed: the certificate then is a new one of the same key.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn hand_out(&self, names: &[String], now: Timestamp) -> Result<(), KeyError> {
        let copy = |from: &Path, to: &Path| {
            let bytes = fs::read(from).map_err(|source| KeyError::File {
                attempted: "read",
                path: from.to_owned(),
                source,
            })?;
            files::write_private(to, &bytes)
        };
        for (role, listener) in [("ingest", Listener::Ingest), ("query", Listener::Https)] {
            let made = self.certificates(listener, names, now)?;
            let dir = self.dir.join("roles").join(role);
            files::make_private_dir(&dir, &[BROKER])?;
            let broker = self.role_credentials(role)?;
            files::write_private(&dir.join(BROKER), broker.0.as_bytes())?;
            files::write_private(&dir.join(ACCOUNT), self.device_account().as_bytes())?;
            let authority = authority::text(&self.authority_verifier());
            files::write_private(&dir.join(authority::PUBLIC), authority.as_bytes())?;
            copy(&made.ca, &dir.join(CA))?;
            if role == "ingest" {
                let system = self.system_credentials()?;
                files::write_private(&dir.join(SYSTEM), system.0.as_bytes())?;
            } else {
                let seed = files::load_or_make_seed(&self.dir.join(ANSWERS))?;
                let text = BASE64URL_NOPAD.encode(&seed);
                files::write_private(&dir.join(ANSWERS), text.as_bytes())?;
            }
            copy(&made.chain, &dir.join(CHAIN))?;
            copy(&made.key, &dir.join(KEY))?;
        }
        Ok(())
    }
}
