//! The fold of a token's stream. Pure.

use std::collections::BTreeSet;

use muster_eventlog::StoredEvent;
use muster_schemas::events::{EventError, Role, author};
use muster_schemas::names::{ConfigVars, LabelKey, Labels, TokenName};
use muster_schemas::{DeviceId, Event, Position, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};

/// Purpose of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Devices enroll with it.
    Enrollment {
        /// Maximum number of devices that may enroll with it.
        uses: u32,
        /// Labels for the devices that enroll with it.
        labels: Labels,
        /// Keys of the labels that a machine may set itself.
        allowed_labels: BTreeSet<LabelKey>,
        /// Config variables that a new device starts with.
        config: ConfigVars,
        /// The only device that may use it.
        device: Option<DeviceId>,
        /// Whether an operator must accept each device that enrolls with it.
        approval_required: bool,
    },
    /// Clients use the API with it.
    Api {
        /// Role of its bearer.
        role: Role,
    },
}

impl TokenKind {
    /// Returns its name in the table.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Enrollment { .. } => "enrollment",
            Self::Api { .. } => "api",
        }
    }
}

/// The state of a token in the log, without its secret's hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    /// Purpose of the token; absent only before it was created.
    pub kind: Option<TokenKind>,
    /// Name for people.
    pub name: Option<TokenName>,
    /// The actor that created it.
    pub created_by: String,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Position of the creation.
    pub created_position: Position,
    /// Time at which it expires.
    pub expires_at: Option<Timestamp>,
    /// Time at which it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Number of uses: enrollments, or hours in which a client used it.
    pub used: u64,
    /// Time of its last recorded use.
    pub last_used_at: Option<Timestamp>,
    /// Client address of its last use.
    pub last_address: Option<String>,
    /// Version of its stream: the resource's `ETag`.
    pub version: StreamVersion,
}

impl Token {
    /// Applies an event.
    ///
    /// # Errors
    /// When the record cannot be decoded.
    pub fn evolve(&mut self, stored: &StoredEvent) -> Result<(), EventError> {
        self.version = stored.stream_version;
        let at = stored.recorded_at;
        match stored.event() {
            Ok(Event::EnrollmentTokenCreated(created)) => {
                let kind = TokenKind::Enrollment {
                    uses: created.uses,
                    labels: created.labels,
                    allowed_labels: created.allow_labels,
                    config: created.config,
                    device: created.device,
                    approval_required: created.approval,
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
