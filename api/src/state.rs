//! What every handler may ask for. Each door's own state gives it by `FromRef`.

use muster_eventlog::EventLog;

use crate::auth::Authenticator;

/// The log, and who may do what; cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The event log.
    pub log: EventLog,
    /// Knows the bearers of tokens.
    pub auth: Authenticator,
}

impl ApiState {
    /// A state over this log.
    #[must_use]
    pub fn new(log: EventLog) -> Self {
        Self { auth: Authenticator::new(log.clone()), log }
    }
}
