//! The API token: authorizes a client's requests. Tokens are checked where requests arrive, not
//! here.

use muster_schemas::events::{ApiTokenCreated, ApiTokenRevoked};
use muster_schemas::{Event, Timestamp};

use super::{Conflict, Decider, Decision, Rejection};

/// State of an API token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiToken {
    /// Its creation; `None` when it is not an API token.
    pub created: Option<ApiTokenCreated>,
    /// Whether it was revoked.
    pub is_revoked: bool,
}

/// Commands on an API token.
#[derive(Clone, Debug)]
pub enum ApiTokenCommand {
    /// Create the token.
    Create {
        /// Properties of the token.
        token: ApiTokenCreated,
        /// Current time.
        now: Timestamp,
    },
    /// Revoke the token.
    Revoke,
}

impl Decider for ApiToken {
    type Command = ApiTokenCommand;

    fn decide(&self, command: ApiTokenCommand) -> Decision {
        match (command, &self.created) {
            (ApiTokenCommand::Create { .. }, Some(_)) => Err(Conflict::TokenExists.into()),
            (ApiTokenCommand::Create { token, now }, None) => match token.expires_at {
                Some(at) if at <= now => Err(Rejection::Invalid {
                    field: "expires_in_seconds",
                    rule: "a token must expire in the future".to_owned(),
                    value: at.to_string(),
                }),
                _ => Ok(vec![token.into()]),
            },
            (ApiTokenCommand::Revoke, None) => Err(Rejection::NotFound("API token")),
            (ApiTokenCommand::Revoke, Some(_)) if self.is_revoked => Ok(Vec::new()),
            (ApiTokenCommand::Revoke, Some(_)) => Ok(vec![ApiTokenRevoked {}.into()]),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::ApiTokenCreated(event) => self.created = Some(event.clone()),
            Event::ApiTokenRevoked(_) => self.is_revoked = true,
            _ => {}
        }
        self
    }
}
