//! The fold of a token's stream. Pure.

use muster_eventlog::StoredEvent;
use muster_schemas::events::{EventError, Role, author};
use muster_schemas::names::{Labels, TokenName};
use muster_schemas::{DeviceId, Event, Timestamp};
use serde::{Deserialize, Serialize};

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Lets devices enroll.
    Enrollment {
        /// How many devices may enroll with it.
        uses: u32,
        /// The labels that a device gets.
        labels: Labels,
        /// The only device that may use it.
        device: Option<DeviceId>,
    },
    /// Lets a client ask.
    Api {
        /// What its bearer may do.
        role: Role,
    },
}

impl TokenKind {
    /// As it stands in the table.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Enrollment { .. } => "enrollment",
            Self::Api { .. } => "api",
        }
    }
}

/// Everything that the log says of a token, but its secret's hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    /// What it is for; absent only before it was made.
    pub kind: Option<TokenKind>,
    /// What people call it.
    pub name: Option<TokenName>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// The position of that event.
    pub created_position: u64,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// How often it was used: enrollments, or hours in which a client used it.
    pub used: u64,
    /// When it was last used, as far as was recorded.
    pub last_used_at: Option<Timestamp>,
    /// From where.
    pub last_address: Option<String>,
    /// The version of its stream: the resource's `ETag`.
    pub version: u64,
}

impl Token {
    /// The state after an event.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn evolve(&mut self, stored: &StoredEvent) -> Result<(), EventError> {
        self.version = stored.stream_version;
        let at = stored.recorded_at;
        match stored.event() {
            Ok(Event::EnrollmentTokenCreated(created)) => {
                let kind = TokenKind::Enrollment {
                    uses: created.uses,
                    labels: created.labels,
                    device: created.device,
                };
                self.create(kind, created.name, Some(created.expires_at), stored);
            }
            Ok(Event::ApiTokenCreated(created)) => {
                let kind = TokenKind::Api { role: created.role };
                self.create(kind, created.name, created.expires_at, stored);
            }
            Ok(Event::EnrollmentTokenUsed(_)) => {
                self.used += 1;
                self.last_used_at = Some(at);
            }
            Ok(Event::ApiTokenUsed(used)) => {
                self.used += 1;
                self.last_used_at = Some(at);
                self.last_address = used.address;
            }
            Ok(Event::EnrollmentTokenRevoked(_) | Event::ApiTokenRevoked(_)) => {
                self.revoked_at = Some(at);
            }
            Ok(_) => {}
            // A type that this release does not know changes nothing here.
            Err(_) if author(&stored.kind).is_none() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn create(
        &mut self,
        kind: TokenKind,
        name: TokenName,
        expires_at: Option<Timestamp>,
        stored: &StoredEvent,
    ) {
        self.kind = Some(kind);
        self.name = Some(name);
        self.expires_at = expires_at;
        self.created_by.clone_from(&stored.actor);
        self.created_at = stored.recorded_at;
        self.created_position = stored.position;
    }
}
