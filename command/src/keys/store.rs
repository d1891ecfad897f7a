//! The keys of the command role, and what it creates with them.

use std::path::{Path, PathBuf};

use muster_files::write_private;
use muster_schemas::authority::{AuthorityKey, AuthorityVerifier};
use muster_schemas::{Hash, ProjectId, SigningKey, Timestamp};
use nkeys::{KeyPair, KeyPairType};

use super::certificates::{Certificates, Listener, create_certificates};
use super::error::{KeyError, unusable};
use super::{authority, certificates, files, nats_jwt};

/// File of the key with which the query role signs its responses to command: 32 bytes; in the
/// role's folder as text (base64url), like all files there.
pub(super) const RESPONSE_KEY: &str = "answers.seed";

/// The configuration with which the broker must start in operator mode.
#[derive(Debug, Clone)]
pub struct BrokerIdentity {
    /// JWT of the operator.
    pub operator_jwt: String,
    /// Public key of the system account.
    pub system_account: String,
    /// The accounts and their JWTs: the system account, the servers' account, and the devices'
    /// account without revocations. They are backdated to the creation of the keys, so that a newer
    /// one that the broker has stored takes precedence.
    pub accounts: Vec<(String, String)>,
}

/// A role's broker credentials: user JWT and seed, as the text of a NATS credentials file.
#[derive(Clone)]
pub struct RoleCredentials(pub String);

impl std::fmt::Debug for RoleCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoleCredentials")
    }
}

/// The key folder.
#[derive(Debug)]
pub struct KeyStore {
    pub(super) dir: PathBuf,
    pub(super) operator: KeyPair,
    pub(super) system: KeyPair,
    pub(super) account: KeyPair,
    pub(super) devices: KeyPair,
    pub(super) device_signing: KeyPair,
    pub(super) nonce_key: [u8; 32],
    pub(super) token_key: [u8; 32],
    pub(super) config_key: [u8; 32],
    pub(super) query_key: SigningKey,
    pub(super) authority: AuthorityKey,
    pub(super) previous_authorities: Vec<AuthorityKey>,
    pub(super) created_at: Timestamp,
}

impl KeyStore {
    /// Opens the folder; creates it and missing keys.
    ///
    /// # Errors
    /// When a file cannot be read or written, or contains no key.
    pub fn open(dir: &Path) -> Result<Self, KeyError> {
        files::make_private_dir(dir, &["nats-operator.seed", "ca.pem", "roles"])?;
        let nkey = |name: &str, kind| load_nkey(&dir.join(name), &kind);
        let operator_path = dir.join("nats-operator.seed");
        let operator = load_nkey(&operator_path, &KeyPairType::Operator)?;
        Ok(Self {
            operator,
            system: nkey("nats-system-account.seed", KeyPairType::Account)?,
            account: nkey("nats-account.seed", KeyPairType::Account)?,
            devices: nkey("nats-devices-account.seed", KeyPairType::Account)?,
            device_signing: nkey("nats-device-signing.seed", KeyPairType::Account)?,
            nonce_key: files::load_or_create_seed(&dir.join("nonce.key"))?,
            token_key: files::load_or_create_seed(&dir.join("token-secrets.key"))?,
            config_key: files::load_or_create_seed(&dir.join("config-secrets.key"))?,
            query_key: SigningKey::from_seed(&files::load_or_create_seed(&dir.join(RESPONSE_KEY))?),
            authority: authority::read_current(dir)?,
            previous_authorities: authority::read_previous(dir)?,
            created_at: files::modified(&operator_path)?,
            dir: dir.to_owned(),
        })
    }

    /// The path of the folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The public key of the account of all devices.
    #[must_use]
    pub fn device_account(&self) -> String {
        self.devices.public_key()
    }

    /// The public key of the account of the server roles and the streams.
    #[must_use]
    pub fn server_account(&self) -> String {
        self.account.public_key()
    }

    /// Returns the configuration with which the broker must start.
    ///
    /// # Errors
    /// When a JWT cannot be created.
    pub fn broker_identity(&self) -> Result<BrokerIdentity, KeyError> {
        let (system, server) = (self.system.public_key(), self.account.public_key());
        let system_jwt = nats_jwt::system_account(&self.operator, &system, self.created_at)?;
        Ok(BrokerIdentity {
            operator_jwt: nats_jwt::operator(&self.operator, &system, self.created_at)?,
            accounts: vec![
                (system.clone(), system_jwt),
                (server, self.server_account_version(self.created_at, 0)?),
                (self.device_account(), self.device_account_version(&[], self.created_at, 0)?),
            ],
            system_account: system,
        })
    }

    /// Creates a new version of the JWT of the servers' account.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn server_account_jwt(&self, issued_at: Timestamp) -> Result<String, KeyError> {
        self.server_account_version(issued_at, rand::random())
    }

    fn server_account_version(
        &self,
        issued_at: Timestamp,
        version: u64,
    ) -> Result<String, KeyError> {
        let (server, devices) = (self.server_account(), self.device_account());
        Ok(nats_jwt::server_account(&self.operator, &server, &devices, issued_at, version)?)
    }

    /// Whether two JWTs of an account are signed by the operator and have the same claims.
    #[must_use]
    pub fn have_same_claims(&self, one: &str, other: &str) -> bool {
        nats_jwt::have_same_claims(&self.operator, one, other)
    }

    /// Creates a new version of the JWT of the devices' account with these user keys revoked.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn device_account_jwt(
        &self,
        revoked: &[(String, Timestamp)],
        issued_at: Timestamp,
    ) -> Result<String, KeyError> {
        self.device_account_version(revoked, issued_at, rand::random())
    }

    fn device_account_version(
        &self,
        revoked: &[(String, Timestamp)],
        issued_at: Timestamp,
        version: u64,
    ) -> Result<String, KeyError> {
        Ok(nats_jwt::device_account(
            &self.operator,
            &self.device_account(),
            &self.server_account(),
            &self.device_signing.public_key(),
            revoked,
            issued_at,
            version,
        )?)
    }

    /// Creates a device's user JWT.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn device_jwt(
        &self,
        user: &str,
        project: &ProjectId,
        device: muster_schemas::DeviceId,
        issued_at: Timestamp,
        expires_at: Timestamp,
    ) -> Result<String, KeyError> {
        let account = self.device_account();
        Ok(nats_jwt::device(
            &self.device_signing,
            &account,
            user,
            project,
            device,
            issued_at,
            expires_at,
        )?)
    }

    /// Returns the credentials of a role (`ingest`, `command`, `query`): always with the same key,
    /// so that they can be copied to another machine.
    ///
    /// # Errors
    /// When they cannot be read or created.
    pub fn role_credentials(&self, role: &str) -> Result<RoleCredentials, KeyError> {
        self.credentials(role, &self.account)
    }

    /// Returns the credentials of a user of the system account, which receives connection events.
    ///
    /// # Errors
    /// When they cannot be read or created.
    pub fn system_credentials(&self) -> Result<RoleCredentials, KeyError> {
        self.credentials("system", &self.system)
    }

    fn credentials(&self, role: &str, account: &KeyPair) -> Result<RoleCredentials, KeyError> {
        let path = self.dir.join(format!("nats-role-{role}.seed"));
        let user = load_nkey(&path, &KeyPairType::User)?;
        let jwt = nats_jwt::role(account, &user.public_key(), role, self.created_at)?;
        let seed = user.seed().map_err(|error| unusable(&path, error.to_string()))?;
        Ok(RoleCredentials(format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )))
    }

    /// Returns the operation key of a project, whose orders its devices accept.
    ///
    /// # Errors
    /// When it cannot be read or created.
    pub fn operation_key(&self, project: &ProjectId) -> Result<SigningKey, KeyError> {
        let path = self.dir.join(format!("operation-{project}.key"));
        Ok(SigningKey::from_seed(&files::load_or_create_seed(&path)?))
    }

    /// The key that verifies the query role's responses.
    #[must_use]
    pub const fn query_key(&self) -> &SigningKey {
        &self.query_key
    }

    /// Returns the password of a role's database user; creates it if it is missing.
    ///
    /// # Errors
    /// When it cannot be read or created.
    pub fn database_password(&self, user: &str) -> Result<String, KeyError> {
        let path = self.dir.join(format!("postgres-{user}.password"));
        let bytes = files::load_or_create(&path, || {
            let secret: [u8; 32] = rand::random();
            Ok(data_encoding::HEXLOWER.encode(&secret).into_bytes())
        })?;
        String::from_utf8(bytes).map_err(|_| unusable(&path, "it is not text"))
    }

    /// Writes a role's database URL to a file in the key folder: `roles/query/postgres-url` and so
    /// on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_database_url(&self, file: &str, url: &str) -> Result<(), KeyError> {
        Ok(write_private(&self.dir.join(file), url.as_bytes())?)
    }

    /// The key from which the secrets of tokens and links with an `Idempotency-Key` are derived; it
    /// has no other use.
    #[must_use]
    pub const fn token_key(&self) -> &[u8; 32] {
        &self.token_key
    }

    /// The key that authenticates nonces for devices.
    #[must_use]
    pub const fn nonce_key(&self) -> &[u8; 32] {
        &self.nonce_key
    }

    /// Returns the CA and a listener's certificate, valid for these names.
    ///
    /// # Errors
    /// When they cannot be read or created.
    pub fn certificates(
        &self,
        listener: Listener,
        names: &[String],
        now: Timestamp,
    ) -> Result<Certificates, KeyError> {
        create_certificates(&self.dir, listener, names, now)
    }

    /// Returns the pin of the server's key, in the format of curl's `--pinnedpubkey`.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn server_pin(&self) -> Result<String, KeyError> {
        let at = |name: &str| self.dir.join(name);
        Certificates { ca: at("ca.pem"), chain: at("server.pem"), key: at("server.key") }.pin()
    }

    /// Returns the pin in enrollment tokens: SHA-256 of the CA's SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub fn ca_pin(&self) -> Result<Hash, KeyError> {
        certificates::ca_pin(&self.dir)
    }
}

impl KeyStore {
    /// The key that proves the authority of events.
    #[must_use]
    pub const fn authority(&self) -> &AuthorityKey {
        &self.authority
    }

    /// The verifier of authority, including that of previous keys.
    #[must_use]
    pub fn authority_verifier(&self) -> AuthorityVerifier {
        let mut keys = vec![self.authority.clone()];
        keys.extend(self.previous_authorities.iter().cloned());
        AuthorityVerifier::from_secret_keys(&keys)
    }

    /// Whether the events from before this key were adopted.
    #[must_use]
    pub fn has_adopted_events(&self) -> bool {
        self.dir.join(authority::ADOPTED_FILE).exists()
    }

    /// Records that the events from before this key were adopted.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn record_adopted_events(&self, adopted: u64) -> Result<(), KeyError> {
        let text = format!("{adopted} events from before authority.key were adopted\n");
        Ok(write_private(&self.dir.join(authority::ADOPTED_FILE), text.as_bytes())?)
    }
}

fn load_nkey(path: &Path, kind: &KeyPairType) -> Result<KeyPair, KeyError> {
    let seed = files::load_or_create(path, || {
        let seed = KeyPair::new(kind.clone()).seed();
        seed.map(String::into_bytes).map_err(|error| unusable(path, error.to_string()))
    })?;
    let text = String::from_utf8(seed).map_err(|_| unusable(path, "it is not text"))?;
    let pair =
        KeyPair::from_seed(text.trim()).map_err(|error| unusable(path, error.to_string()))?;
    if pair.key_pair_type() == *kind {
        Ok(pair)
    } else {
        Err(unusable(path, "it is a key of another kind"))
    }
}
