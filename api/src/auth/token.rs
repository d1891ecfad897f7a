//! The state of an API token: a pure fold of its stream, and the check of a secret against it.

use muster_schemas::events::Role;
use muster_schemas::{Event, Hash, Timestamp};
use subtle::ConstantTimeEq;

/// The state of an API token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiTokenState {
    created: Option<Created>,
    is_revoked: bool,
    last_used: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Created {
    secret: Hash,
    role: Role,
    expires_at: Option<Timestamp>,
}

/// Why a token is rejected. Only for the server's log: the client learns only that it is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such API token was ever created.
    #[error("there is no such token")]
    Unknown,
    /// The secret does not match the token.
    #[error("the secret is wrong")]
    WrongSecret,
    /// The token was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
}

impl ApiTokenState {
    /// Applies an event that was recorded at a time. Events of other types change nothing.
    #[must_use]
    pub fn evolve(mut self, event: &Event, recorded_at: Timestamp) -> Self {
        match event {
            Event::ApiTokenCreated(created) => {
                self.created = Some(Created {
                    secret: created.secret,
                    role: created.role,
                    expires_at: created.expires_at,
                });
            }
            Event::ApiTokenUsed(_) => self.last_used = Some(recorded_at),
            Event::ApiTokenRevoked(_) => self.is_revoked = true,
            _ => {}
        }
        self
    }

    /// Returns the current role of the bearer of a secret.
    ///
    /// # Errors
    /// When the token is rejected. The secret is checked first: only the holder of a token learns
    /// that it is revoked.
    pub fn check(&self, secret: &[u8], now: Timestamp) -> Result<Role, Refusal> {
        let created = self.created.as_ref().ok_or(Refusal::Unknown)?;
        let fits: bool = Hash::of(secret).0.ct_eq(&created.secret.0).into();
        if !fits {
            return Err(Refusal::WrongSecret);
        }
        self.role_at(now)
    }

    /// Returns the current role of the token, for a connection that was opened with it before.
    ///
    /// # Errors
    /// When the token is revoked, has expired, or was never created.
    pub fn role_at(&self, now: Timestamp) -> Result<Role, Refusal> {
        let created = self.created.as_ref().ok_or(Refusal::Unknown)?;
        if self.is_revoked {
            return Err(Refusal::Revoked);
        }
        if created.expires_at.is_some_and(|end| end <= now) {
            return Err(Refusal::Expired);
        }
        Ok(created.role)
    }

    /// Whether the token was ever created.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.created.is_some()
    }

    /// Returns the time of the last recorded use.
    #[must_use]
    pub const fn last_used(&self) -> Option<Timestamp> {
        self.last_used
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::{ApiTokenCreated, ApiTokenRevoked, ApiTokenUsed};

    use super::*;

    fn created(expires_at: Option<Timestamp>) -> ApiTokenState {
        let event = ApiTokenCreated {
            name: "ci".parse().unwrap(),
            secret: Hash::of(b"secret"),
            role: Role::Operator,
            expires_at,
        };
        ApiTokenState::default().evolve(&event.into(), Timestamp(1))
    }

    #[test]
    fn only_the_secret_of_a_valid_token_authenticates() {
        let now = Timestamp(100);
        let used = Event::from(ApiTokenUsed { address: None });
        let revoked = Event::from(ApiTokenRevoked {});
        let living = created(None);
        for (state, secret, expected) in [
            (ApiTokenState::default(), "secret", Err(Refusal::Unknown)),
            (living.clone(), "secret", Ok(Role::Operator)),
            (living.clone(), "Secret", Err(Refusal::WrongSecret)),
            (living.clone(), "", Err(Refusal::WrongSecret)),
            (living.clone().evolve(&used, now), "secret", Ok(Role::Operator)),
            (living.clone().evolve(&revoked, now), "secret", Err(Refusal::Revoked)),
            (living.evolve(&revoked, now), "x", Err(Refusal::WrongSecret)),
            (created(Some(Timestamp(100))), "secret", Err(Refusal::Expired)),
            (created(Some(Timestamp(101))), "secret", Ok(Role::Operator)),
        ] {
            assert_eq!(state.check(secret.as_bytes(), now), expected, "{state:?}");
        }
    }
}
