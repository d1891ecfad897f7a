//! Enrollment tokens and API tokens: created, revoked. Their secrets are shown once and never
//! stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use muster_schemas::events::{ApiTokenCreated, EnrollmentTokenCreated, Role};
use muster_schemas::names::{ConfigVars, LabelKey, Labels, TokenName};
use muster_schemas::wire::{ApiTokenText, EnrollmentTokenText};
use muster_schemas::{DeviceId, Event, Hash, StreamName, StreamVersion, Timestamp, TokenId};
use sha2::Sha256;
use uuid::Uuid;

use super::devices::seal_config;
use crate::clock::now;
use crate::domain::api_token::{ApiToken, ApiTokenCommand};
use crate::domain::enrollment_token::{EnrollmentToken, EnrollmentTokenCommand};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::Executor;
use crate::keys::KeyStore;
use crate::request::{Request, Written};

/// A new enrollment token.
#[derive(Clone, Debug)]
pub struct NewEnrollmentToken {
    /// Display name of the token.
    pub name: TokenName,
    /// Time at which the token expires.
    pub expires_at: Timestamp,
    /// Number of devices that may enroll with the token.
    pub uses: u32,
    /// Labels that a device receives.
    pub labels: Labels,
    /// Config variables that a new device starts with.
    pub config: ConfigVars,
    /// Keys of the labels that a machine may set itself.
    pub allow_labels: BTreeSet<LabelKey>,
    /// The only device that may enroll with the token.
    pub device: Option<DeviceId>,
    /// Whether an operator must accept each device that enrolls with the token.
    pub approval: bool,
}

/// A new API token.
#[derive(Clone, Debug)]
pub struct NewApiToken {
    /// Display name of the token.
    pub name: TokenName,
    /// Role that the token grants.
    pub role: Role,
    /// Time at which the token expires.
    pub expires_at: Option<Timestamp>,
}

/// A created token.
#[derive(Clone, Debug)]
pub struct CreatedToken<T> {
    /// Text of the token, which cannot be shown again.
    pub text: T,
    /// Time at which the token expires.
    pub expires_at: Option<Timestamp>,
    /// Version and position of the creation in the log.
    pub written: Written,
}

/// The response to the first attempt of a request for a token, without the token's text.
struct FirstResult {
    written: Written,
    expires_at: Option<Timestamp>,
}

/// Derives the secret of a token. Without an `Idempotency-Key` no retry must return the same
/// secret, so it is random. With one it is derived from a key that only command has and that has no
/// other use. It also depends on what was created (`made`: the token's id, or the time at which the
/// link expires): idempotency keys are forgotten after a day, and a key that is used again later
/// yields another secret.
pub(super) fn secret(key: &[u8; 32], request: &Request, created: &[u8]) -> [u8; 32] {
    if request.request_hash.is_none() {
        return rand::random();
    }
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(b"muster/token-secret/v3");
    mac.update(request.append_id.as_bytes());
    mac.update(created);
    mac.finalize().into_bytes().into()
}

/// Creates and revokes enrollment tokens and API tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    executor: Executor,
    keys: Arc<KeyStore>,
}

impl Tokens {
    pub(super) const fn new(executor: Executor, keys: Arc<KeyStore>) -> Self {
        Self { executor, keys }
    }

    /// Returns the secret of a created token: the same request may have been completed first by
    /// another process.
    fn secret_of(&self, request: &Request, own: (TokenId, [u8; 32]), created: TokenId) -> [u8; 32] {
        if created == own.0 {
            own.1
        } else {
            secret(self.keys.token_key(), request, created.0.as_bytes())
        }
    }

    /// Returns the pin of the server's key, in the format of curl's `--pinnedpubkey`.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn server_pin(&self) -> Result<String, CommandError> {
        Ok(self.keys.server_pin()?)
    }

    /// Returns the id of the token that the request's first attempt created, or a new id. Called
    /// again after the append: another process may have completed the same request first.
    async fn token_id(
        &self,
        request: &Request,
    ) -> Result<(TokenId, Option<FirstResult>), CommandError> {
        let first = self.executor.first_result(request).await?;
        let made = first.and_then(|(appended, events)| {
            let (id, stored) = events.iter().find_map(|event| match event.stream {
                StreamName::Token(id) => Some((id, event)),
                _ => None,
            })?;
            let expires_at = match stored.event() {
                Ok(Event::EnrollmentTokenCreated(created)) => Some(created.expires_at),
                Ok(Event::ApiTokenCreated(created)) => created.expires_at,
                _ => None,
            };
            let written = Written { version: StreamVersion::FIRST, position: appended.last };
            Some((id, Some(FirstResult { written, expires_at })))
        });
        Ok(made.unwrap_or_else(|| (TokenId(Uuid::now_v7()), None)))
    }

    /// Creates an enrollment token; returns its text, which cannot be shown again.
    ///
    /// # Errors
    /// When a rule is violated, or the log cannot be used.
    pub async fn create_enrollment_token(
        &self,
        request: &Request,
        new: NewEnrollmentToken,
    ) -> Result<CreatedToken<EnrollmentTokenText>, CommandError> {
        let (id, before) = self.token_id(request).await?;
        let text = EnrollmentTokenText {
            project: request.project.clone(),
            id,
            secret: secret(self.keys.token_key(), request, id.0.as_bytes()),
            pin: self.keys.ca_pin()?,
        };
        if let Some(FirstResult { written, expires_at }) = before {
            return Ok(CreatedToken { text, expires_at, written });
        }
        let NewEnrollmentToken {
            name,
            expires_at,
            uses,
            labels,
            config,
            allow_labels,
            device,
            approval,
        } = new;
        let seal = |(name, value)| {
            let value = seal_config(&self.keys, "config", &request.project, &name, value)?;
            Ok::<_, CommandError>((name, value))
        };
        let config = config.into_iter().map(seal).collect::<Result<_, _>>()?;
        let secret = Hash::of(&text.secret);
        let token = EnrollmentTokenCreated {
            name,
            secret,
            expires_at,
            uses,
            labels,
            device,
            approval,
            config,
            allow_labels,
        };
        let created = EnrollmentToken::default()
            .decide(EnrollmentTokenCommand::Create { token, now: now() })?;
        let written = self.append_new_token(request, id, created).await?;
        let own = (id, text.secret);
        let (id, made) = self.token_id(request).await?;
        let id = if made.is_some() { id } else { own.0 };
        let secret = self.secret_of(request, own, id);
        let expires_at = made.map_or(Some(expires_at), |made| made.expires_at);
        Ok(CreatedToken { text: EnrollmentTokenText { id, secret, ..text }, expires_at, written })
    }

    /// Creates an API token; returns its text, which cannot be shown again.
    ///
    /// # Errors
    /// When a rule is violated, or the log cannot be used.
    pub async fn create_api_token(
        &self,
        request: &Request,
        new: NewApiToken,
    ) -> Result<CreatedToken<ApiTokenText>, CommandError> {
        let (id, before) = self.token_id(request).await?;
        let text = ApiTokenText {
            project: request.project.clone(),
            id,
            secret: secret(self.keys.token_key(), request, id.0.as_bytes()),
        };
        if let Some(FirstResult { written, expires_at }) = before {
            return Ok(CreatedToken { text, expires_at, written });
        }
        let NewApiToken { name, role, expires_at } = new;
        let token = ApiTokenCreated { name, secret: Hash::of(&text.secret), role, expires_at };
        let created = ApiToken::default().decide(ApiTokenCommand::Create { token, now: now() })?;
        let written = self.append_new_token(request, id, created).await?;
        let own = (id, text.secret);
        let (id, made) = self.token_id(request).await?;
        let id = if made.is_some() { id } else { own.0 };
        let secret = self.secret_of(request, own, id);
        let expires_at = made.map_or(expires_at, |made| made.expires_at);
        Ok(CreatedToken { text: ApiTokenText { id, secret, ..text }, expires_at, written })
    }

    async fn append_new_token(
        &self,
        request: &Request,
        id: TokenId,
        created: Vec<Event>,
    ) -> Result<Written, CommandError> {
        let parts = vec![(StreamName::Token(id), StreamVersion::ZERO, created)];
        let position = self.executor.try_append(request, parts).await?;
        let taken = || Rejection::from(Conflict::TokenExists);
        Ok(Written { version: StreamVersion::FIRST, position: position.ok_or_else(taken)? })
    }

    /// Revokes an enrollment token.
    ///
    /// # Errors
    /// When the token does not exist, or the log cannot be used.
    pub async fn revoke_enrollment_token(
        &self,
        request: &Request,
        id: TokenId,
    ) -> Result<Written, CommandError> {
        self.change_token::<EnrollmentToken>(request, id, EnrollmentTokenCommand::Revoke).await
    }

    /// Revokes an API token.
    ///
    /// # Errors
    /// When the token does not exist, or the log cannot be used.
    pub async fn revoke_api_token(
        &self,
        request: &Request,
        id: TokenId,
    ) -> Result<Written, CommandError> {
        self.change_token::<ApiToken>(request, id, ApiTokenCommand::Revoke).await
    }

    async fn change_token<D>(
        &self,
        request: &Request,
        id: TokenId,
        command: D::Command,
    ) -> Result<Written, CommandError>
    where
        D: Decider<Command: Clone>,
    {
        let stream = StreamName::Token(id);
        if let Some(written) = self.executor.previous_result(request, &stream).await? {
            return Ok(written);
        }
        self.executor.execute::<D>(request, &stream, command).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_derived_from_the_log_and_its_own_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyStore::open(dir.path()).unwrap();
        keys.write_role_folders(&["localhost".to_owned()], Timestamp(1_795_420_800_000_000))
            .unwrap();
        let request = Request {
            project: "default".parse().unwrap(),
            actor: "test".to_owned(),
            append_id: Uuid::from_u128(7),
            may_be_repeated: true,
            request_hash: Some(Hash::of(b"body")),
            versions: None,
            exists: None,
        };
        let own = secret(keys.token_key(), &request, b"id");
        assert_eq!(own, secret(keys.token_key(), &request, b"id"), "a retry gets the same");
        assert_ne!(own, secret(keys.token_key(), &request, b"another"), "a later one does not");
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let Ok(key) = <[u8; 32]>::try_from(bytes) else { continue };
            let is_own = path.ends_with("token-secrets.key");
            assert_eq!(secret(&key, &request, b"id") == own, is_own, "{}", path.display());
        }
        for role in ["ingest", "query"] {
            assert!(!dir.path().join("roles").join(role).join("token-secrets.key").exists());
        }
        // Without an Idempotency-Key nothing has to be repeatable.
        let unrepeated = Request { request_hash: None, ..request };
        let key = keys.token_key();
        assert_ne!(secret(key, &unrepeated, b"id"), secret(key, &unrepeated, b"id"));
    }
}
