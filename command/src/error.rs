//! The error of the write side's use cases.

use muster_blobs::BlobError;
use muster_channel::SealedError;
use muster_eventlog::{AppendError, StoreError};
use muster_schemas::StreamVersion;
use muster_schemas::events::EventError;

use crate::domain::Rejection;
use crate::keys::KeyError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The domain rules reject it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The resource's version is not the one that the client expects.
    #[error("the resource is at version {0}")]
    VersionMismatch(StreamVersion),
    /// The resource exists, or does not, against what the client requires.
    #[error("the resource {}", if *exists { "exists" } else { "does not exist" })]
    Existence {
        /// Whether it exists.
        exists: bool,
    },
    /// A device has not proved its identity.
    #[error("{0}")]
    IdentityNotProven(String),
    /// The log failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The append failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A stored event cannot be read.
    #[error("a stored event cannot be read")]
    Stored(#[from] EventError),
    /// The blobs could not be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A message could not be sealed to a device's key.
    #[error(transparent)]
    Seal(#[from] SealedError),
    /// The broker is unavailable.
    #[error("the broker is unavailable: {0}")]
    Broker(String),
    /// The query role cannot resolve the target selector.
    #[error("failed to resolve the target selector: {0}")]
    Query(String),
}
