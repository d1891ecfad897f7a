//! Why a connection to the broker was lost.

use async_nats::{ServerError, SubscribeError};
use muster_schemas::errors::error_chain;

use super::connect::is_denial;
use crate::store::StoreError;

/// The reason why a connection to the broker was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionLost {
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker does not respond")]
    Silent,
    /// The broker closed it after this error.
    #[error(transparent)]
    Broker(ServerError),
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// The outbox could not be read or written.
    #[error("{}", error_chain(.0))]
    Outbox(#[from] StoreError),
}

impl ConnectionLost {
    /// Whether the broker refused the credentials.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Broker(error) if is_denial(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_the_broker_can_refuse_the_credentials() {
        let expired = ServerError::Other("User Authentication Expired".to_owned());
        assert!(ConnectionLost::Broker(expired).is_denied());
        assert!(ConnectionLost::Broker(ServerError::AuthorizationViolation).is_denied());
        let other = ServerError::Other("Permissions Violation for Publish to \"x\"".to_owned());
        assert!(!ConnectionLost::Broker(other).is_denied());
        assert!(!ConnectionLost::Closed.is_denied());
    }

    #[test]
    fn a_failed_outbox_is_reported_with_its_cause() {
        let error = StoreError::File {
            attempted: "write",
            path: "/data".into(),
            source: std::io::Error::other("disk full"),
        };
        let lost = ConnectionLost::from(error);
        assert_eq!(lost.to_string(), "failed to write /data: disk full");
    }
}
