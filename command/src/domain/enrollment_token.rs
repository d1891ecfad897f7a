//! The enrollment token: authorizes some devices to enroll, for a limited time.

use muster_schemas::events::{EnrollmentTokenCreated, EnrollmentTokenRevoked, EnrollmentTokenUsed};
use muster_schemas::names::{MAX_CONFIG_VARS, MAX_LABELS};
use muster_schemas::{DeviceId, Event, Hash, StreamVersion, Timestamp};

use super::changes::check_label_keys;
use super::{Conflict, Decider, Decision, Rejection, TokenRefusal};

/// Maximum number of devices that may enroll with one token.
pub const MAX_USES: u32 = 100_000;

/// State of an enrollment token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnrollmentToken {
    /// Its creation; `None` when it is not an enrollment token.
    pub created: Option<EnrollmentTokenCreated>,
    /// Number of devices that have enrolled with it.
    pub used: u32,
    /// Whether it was revoked.
    pub is_revoked: bool,
}

/// Commands on an enrollment token.
#[derive(Clone, Debug)]
pub enum EnrollmentTokenCommand {
    /// Create the token.
    Create {
        /// Properties of the token.
        token: EnrollmentTokenCreated,
        /// Current time.
        now: Timestamp,
    },
    /// Enroll a device with it.
    Use {
        /// SHA-256 of the secret that the device has presented.
        secret: Hash,
        /// Id of the device.
        device: DeviceId,
        /// Current time.
        now: Timestamp,
    },
    /// Revoke the token.
    Revoke,
}

impl EnrollmentToken {
    /// Returns the state from the first and the newest event and the version of the stream, without
    /// reading all of it: a token may have enrolled many devices, and no event follows a
    /// revocation.
    #[must_use]
    pub fn from_ends(first: &Event, newest: &Event, version: StreamVersion) -> Self {
        let is_revoked = matches!(newest, Event::EnrollmentTokenRevoked(_));
        let used = version.get().saturating_sub(1 + u64::from(is_revoked));
        Self {
            created: Self::default().evolve(first).created,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            is_revoked,
        }
    }

    fn create(&self, token: EnrollmentTokenCreated, now: Timestamp) -> Decision {
        if self.created.is_some() {
            return Err(Conflict::TokenExists.into());
        }
        if token.expires_at <= now {
            return Err(Rejection::Invalid {
                field: "expires_in_seconds",
                rule: "a token must expire in the future".to_owned(),
                value: token.expires_at.to_string(),
            });
        }
        if !(1..=MAX_USES).contains(&token.uses) {
            return Err(Rejection::Invalid {
                field: "max_uses",
                rule: format!("a token enrolls from 1 to {MAX_USES} devices"),
                value: token.uses.to_string(),
            });
        }
        if token.config.len() > MAX_CONFIG_VARS {
            return Err(Rejection::Invalid {
                field: "config",
                rule: format!("a device has at most {MAX_CONFIG_VARS} of them"),
                value: token.config.len().to_string(),
            });
        }
        check_label_keys("labels", token.labels.keys())?;
        check_label_keys("allow_labels", token.allow_labels.iter())?;
        for (field, count) in
            [("labels", token.labels.len()), ("allow_labels", token.allow_labels.len())]
        {
            if count > MAX_LABELS {
                return Err(Rejection::Invalid {
                    field,
                    rule: format!("a device has at most {MAX_LABELS} of them"),
                    value: count.to_string(),
                });
            }
        }
        for (key, value) in &token.config {
            if let Err(error) = value.check() {
                return Err(Rejection::Invalid {
                    field: "config",
                    rule: format!("the value of {key} {}", error.rule),
                    value: error.value,
                });
            }
        }
        Ok(vec![token.into()])
    }

    /// Rejects a wrong secret, without revealing anything about the token.
    ///
    /// # Errors
    /// When the secret is wrong, or the token does not exist.
    pub fn check_secret(&self, secret: Hash) -> Result<&EnrollmentTokenCreated, Rejection> {
        let created = self.created.as_ref().filter(|created| created.secret == secret);
        created.ok_or(TokenRefusal::Unknown.into())
    }

    fn use_for(&self, secret: Hash, device: DeviceId, now: Timestamp) -> Decision {
        let created = self.check_secret(secret)?;
        let refusal = if self.is_revoked {
            Some(TokenRefusal::Revoked)
        } else if created.expires_at <= now {
            Some(TokenRefusal::Expired)
        } else if self.used >= created.uses {
            Some(TokenRefusal::UsedUp)
        } else if created.device.is_some_and(|only| only != device) {
            Some(TokenRefusal::OtherDevice)
        } else {
            None
        };
        match refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(vec![EnrollmentTokenUsed { device }.into()]),
        }
    }

    fn revoke(&self) -> Decision {
        match (&self.created, self.is_revoked) {
            (None, _) => Err(Rejection::NotFound("enrollment token")),
            (Some(_), true) => Ok(Vec::new()),
            (Some(_), false) => Ok(vec![EnrollmentTokenRevoked {}.into()]),
        }
    }
}

impl Decider for EnrollmentToken {
    type Command = EnrollmentTokenCommand;

    fn decide(&self, command: EnrollmentTokenCommand) -> Decision {
        match command {
            EnrollmentTokenCommand::Create { token, now } => self.create(token, now),
            EnrollmentTokenCommand::Use { secret, device, now } => {
                self.use_for(secret, device, now)
            }
            EnrollmentTokenCommand::Revoke => self.revoke(),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::EnrollmentTokenCreated(event) => self.created = Some(event.clone()),
            Event::EnrollmentTokenUsed(_) => self.used += 1,
            Event::EnrollmentTokenRevoked(_) => self.is_revoked = true,
            _ => {}
        }
        self
    }
}
