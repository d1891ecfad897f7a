//! Why a message of the server is ignored.

use muster_channel::SealedError;
use muster_schemas::codec::DecodeError;
use muster_schemas::cose::CoseError;
use muster_schemas::errors::error_chain;

use super::record::RecordError;
use crate::identity::NotForDevice;
use crate::store::StoreError;

/// The reason why a message of the server is ignored: it is counted and logged. The server sends an
/// order again until an event reports its receipt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IgnoredMessage {
    #[error("this agent does not know the kind of the message")]
    UnknownKind,
    /// The server's key is invalid, or the message is not signed with it.
    #[error(transparent)]
    Signature(#[from] CoseError),
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    #[error(transparent)]
    Address(#[from] NotForDevice),
    #[error("the message is for another device or epoch")]
    OtherDevice,
    #[error("its expiry time is missing")]
    NoExpiry,
    #[error("it has expired")]
    Expired,
    #[error("its channel was opened before")]
    Repeated,
    /// The private part is sealed to none of the device's keys.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    #[error("the outbox is full; the order is accepted when space is available")]
    OutboxFull,
    #[error("{}", error_chain(.0))]
    Record(#[from] RecordError),
    #[error("{}", error_chain(.0))]
    Store(#[from] StoreError),
}
