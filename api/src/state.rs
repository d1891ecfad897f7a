//! State for every handler. Each role's own state provides it by `FromRef`.

use muster_eventlog::EventLog;

use crate::auth::Authenticator;

/// The log and the authenticator; cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The event log.
    pub log: EventLog,
    /// The authenticator of bearer tokens.
    pub auth: Authenticator,
}

impl ApiState {
    /// Creates a state over this log.
    #[must_use]
    pub fn new(log: EventLog) -> Self {
        Self { auth: Authenticator::new(log.clone()), log }
    }
}
