//! The enrollment token: lets some devices in, for a while.

use muster_schemas::events::{EnrollmentTokenCreated, EnrollmentTokenRevoked, EnrollmentTokenUsed};
use muster_schemas::names::{MAX_CONFIG_VARS, MAX_LABELS};
use muster_schemas::{DeviceId, Event, Hash, Timestamp};

use super::{Decider, Decision, Rejection};

/// The most devices that one token may let in.
pub const MAX_USES: u32 = 100_000;

/// What is known of an enrollment token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnrollmentToken {
    /// How it was made; `None` when it is no enrollment token.
    pub created: Option<EnrollmentTokenCreated>,
    /// How many devices have enrolled with it.
    pub used: u32,
    /// Was it revoked?
    pub revoked: bool,
}

/// What can be asked of an enrollment token.
#[derive(Clone, Debug)]
pub enum EnrollmentTokenCommand {
    /// Make it.
    Create {
        /// How.
        token: EnrollmentTokenCreated,
        /// The time now.
        now: Timestamp,
    },
    /// Let a device in.
    Use {
        /// SHA-256 of the secret that the device has shown.
        secret: Hash,
        /// The device.
        device: DeviceId,
        /// The time now.
        now: Timestamp,
    },
    /// Revoke it.
    Revoke,
}

impl EnrollmentToken {
    /// The token as its first and its newest event and its stream's version tell it: a token may let
    /// in many devices, and nothing follows a revocation.
    #[must_use]
    pub fn from_ends(first: &Event, newest: &Event, version: u64) -> Self {
        let revoked = matches!(newest, Event::EnrollmentTokenRevoked(_));
        let used = version.saturating_sub(1 + u64::from(revoked));
        Self {
            created: Self::default().evolve(first).created,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            revoked,
        }
    }

    fn create(&self, token: EnrollmentTokenCreated, now: Timestamp) -> Decision {
        if self.created.is_some() {
            return Err(Rejection::Conflict("the token exists already".to_owned()));
        }
        if token.expires_at <= now {
            return Err(Rejection::Invalid {
                field: "expires_at",
                rule: "a token must expire in the future".to_owned(),
                value: token.expires_at.to_string(),
            });
        }
        if !(1..=MAX_USES).contains(&token.uses) {
            return Err(Rejection::Invalid {
                field: "uses",
                rule: format!("a token lets in from 1 to {MAX_USES} devices"),
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

    /// Refuses whoever does not know the secret, who learns nothing about the token.
    ///
    /// # Errors
    /// When the secret is another one, or the token is not known.
    pub fn check_secret(&self, secret: Hash) -> Result<&EnrollmentTokenCreated, Rejection> {
        let created = self.created.as_ref().filter(|created| created.secret == secret);
        created.ok_or(Rejection::TokenRefused(
            "the enrollment token is not known here; check that it was copied whole, and that it is for this server",
        ))
    }

    fn use_by(&self, secret: Hash, device: DeviceId, now: Timestamp) -> Decision {
        let created = self.check_secret(secret)?;
        let refusal = if self.revoked {
            Some("the enrollment token was revoked; ask for a new one")
        } else if created.expires_at <= now {
            Some("the enrollment token has expired; ask for a new one")
        } else if self.used >= created.uses {
            Some("the enrollment token has been used as often as it may be; ask for a new one")
        } else if created.device.is_some_and(|only| only != device) {
            Some("the enrollment token was made for another device")
        } else {
            None
        };
        match refusal {
            Some(refusal) => Err(Rejection::TokenRefused(refusal)),
            None => Ok(vec![EnrollmentTokenUsed { device }.into()]),
        }
    }

    fn revoke(&self) -> Decision {
        match (&self.created, self.revoked) {
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
            EnrollmentTokenCommand::Use { secret, device, now } => self.use_by(secret, device, now),
            EnrollmentTokenCommand::Revoke => self.revoke(),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::EnrollmentTokenCreated(event) => self.created = Some(event.clone()),
            Event::EnrollmentTokenUsed(_) => self.used += 1,
            Event::EnrollmentTokenRevoked(_) => self.revoked = true,
            _ => {}
        }
        self
    }
}
