//! The API token: lets a client ask. Checking one is not decided here but where requests come in.

use muster_schemas::events::{ApiTokenCreated, ApiTokenRevoked};
use muster_schemas::{Event, Timestamp};

use super::{Decider, Decision, Rejection};

/// What is known of an API token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiToken {
    /// How it was made; `None` when it is no API token.
    pub created: Option<ApiTokenCreated>,
    /// Was it revoked?
    pub revoked: bool,
}

/// What can be asked of an API token.
#[derive(Clone, Debug)]
pub enum ApiTokenCommand {
    /// Make it.
    Create {
        /// How.
        token: ApiTokenCreated,
        /// The time now.
        now: Timestamp,
    },
    /// Revoke it.
    Revoke,
}

impl Decider for ApiToken {
    type Command = ApiTokenCommand;

    fn decide(&self, command: ApiTokenCommand) -> Decision {
        match (command, &self.created) {
            (ApiTokenCommand::Create { .. }, Some(_)) => {
                Err(Rejection::Conflict("the token exists already".to_owned()))
            }
            (ApiTokenCommand::Create { token, now }, None) => match token.expires_at {
                Some(at) if at <= now => Err(Rejection::Invalid {
                    field: "expires_at",
                    rule: "a token must expire in the future".to_owned(),
                    value: at.to_string(),
                }),
                _ => Ok(vec![token.into()]),
            },
            (ApiTokenCommand::Revoke, None) => Err(Rejection::NotFound("API token")),
            (ApiTokenCommand::Revoke, Some(_)) if self.revoked => Ok(Vec::new()),
            (ApiTokenCommand::Revoke, Some(_)) => Ok(vec![ApiTokenRevoked {}.into()]),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::ApiTokenCreated(event) => self.created = Some(event.clone()),
            Event::ApiTokenRevoked(_) => self.revoked = true,
            _ => {}
        }
        self
    }
}
