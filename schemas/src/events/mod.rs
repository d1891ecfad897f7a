//! The events: facts, as stored in the log.
//!
//! An event has a type name and the version of its shape; the log stores both with its bytes.
//! [`Event::decode`] accepts any version that was ever stored and lifts it to the newest shape.

mod device;
mod inventory;
mod operation;
mod project;
mod session;
mod token;
mod upload;

pub use device::{
    Cause, DeviceConfigApplied, DeviceConfigSet, DeviceConnected, DeviceDeleted,
    DeviceDisconnected, DeviceEnrolled, DeviceEnrollmentAccepted, DeviceEnrollmentRejected,
    DeviceEnrollmentRequested, DeviceEpochGranted, DeviceEventUnreadable, DeviceForked,
    DeviceHistoryLost, DeviceKeyRotated, DeviceLabelsChanged, DeviceNameReleased,
    DeviceNameReserved, DeviceRegistered, DeviceRenamed, DeviceRevoked, DisconnectReason,
    LossCause,
};
pub use inventory::{DeviceInventoryReported, Interface};
pub use operation::{
    AbortCause, Action, ClosedState, Exec, FileSummary, OperationAborted, OperationPaused,
    OperationRequested, OperationResumed, OutputSummary, PrivatePart, Program, RefusalCause,
    RequestedTarget, RunAccepted, RunCancelRequested, RunCanceled, RunClosed, RunDispatched,
    RunExpired, RunFailed, RunInterrupted, RunRejected, RunReport, RunRequested, RunStarted,
    RunSucceeded, RunTimedOut, Upload,
};
pub use project::{
    ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored, ProjectRetentionSet,
};
pub use session::{
    SessionAttached, SessionDetached, SessionEnded, SessionKind, SessionRecorded, SessionRefused,
    SessionRequested, ShellEnded,
};
pub use token::{
    ApiTokenCreated, ApiTokenRevoked, ApiTokenUsed, EnrollmentTokenCreated, EnrollmentTokenRevoked,
    EnrollmentTokenUsed, Role,
};
pub use upload::{DownloadLinkMade, EraseCause, UploadErased, UploadStalled};

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::upcast;

/// Why stored bytes could not be decoded as an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Unknown type.
    #[error("unknown event type '{0}'")]
    UnknownType(String),
    /// Known type, unknown version.
    #[error("version {version} of {kind} is unknown; the newest is {newest}")]
    UnknownVersion {
        /// The type.
        kind: &'static str,
        /// The version found.
        version: u16,
        /// The newest supported version.
        newest: u16,
    },
    /// The bytes do not have the type's shape.
    #[error("{kind} version {version}: {source}")]
    Malformed {
        /// The type.
        kind: &'static str,
        /// The version found.
        version: u16,
        /// The decoding error.
        source: DecodeError,
    },
}

macro_rules! events {
    ($( $(#[$doc:meta])* $name:ident, $version:literal, $by:ident; )+) => {
        /// Any event.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum Event {
            $( $(#[$doc])* $name($name), )+
        }

        impl Event {
            /// Every type with the newest version of its shape.
            pub const TYPES: &'static [(&'static str, u16)] = &[$((stringify!($name), $version)),+];

            /// The event's type, as stored in the log.
            #[must_use]
            pub const fn kind(&self) -> &'static str {
                match self { $( Self::$name(_) => stringify!($name), )+ }
            }

            /// The version of the shape that [`Self::encode`] writes.
            #[must_use]
            pub const fn version(&self) -> u16 {
                match self { $( Self::$name(_) => $version, )+ }
            }

            /// The event's own bytes, without type and version.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self { $( Self::$name(event) => codec::encode(event), )+ }
            }

            /// Decodes an event of any version that was ever stored.
            ///
            /// # Errors
            /// When the type or version is unknown, or the bytes do not have that shape.
            pub fn decode(kind: &str, version: u16, bytes: &[u8]) -> Result<Self, EventError> {
                match kind {
                    $( stringify!($name) => {
                        let (kind, newest) = (stringify!($name), $version);
                        if version == 0 || version > newest {
                            return Err(EventError::UnknownVersion { kind, version, newest });
                        }
                        let malformed = |source| EventError::Malformed { kind, version, source };
                        if version == newest {
                            return codec::decode(bytes).map(Self::$name).map_err(malformed);
                        }
                        let lifted = upcast::to_newest(kind, version, newest, bytes).map_err(malformed)?;
                        codec::decode(&lifted).map(Self::$name).map_err(malformed)
                    } )+
                    other => Err(EventError::UnknownType(other.chars().take(80).collect())),
                }
            }
        }

        $(
            impl $name {
                /// The event's type, as stored in the log.
                pub const TYPE: &'static str = stringify!($name);
            }

            impl From<$name> for Event {
                fn from(event: $name) -> Self {
                    Self::$name(event)
                }
            }
        )+

        /// Who may record an event of this type.
        #[must_use]
        pub fn author(kind: &str) -> Option<Author> {
            match kind { $( stringify!($name) => Some(Author::$by), )+ _ => None }
        }
    };
}

/// Who may record an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Only a device, signed.
    Device,
    /// Only the server.
    Server,
}

events! {
    /// A device was registered, by an operator or by an enrollment.
    DeviceRegistered, 2, Server;
    /// A machine requested enrollment, and waits for an operator.
    DeviceEnrollmentRequested, 2, Server;
    /// An operator accepted a pending machine.
    DeviceEnrollmentAccepted, 1, Server;
    /// An operator rejected a pending machine.
    DeviceEnrollmentRejected, 1, Server;
    /// A device's keys were revoked until it enrolls again.
    DeviceRevoked, 1, Server;
    /// A device enrolled: its keys were registered, a new epoch started.
    DeviceEnrolled, 2, Server;
    /// A device was granted a new epoch.
    DeviceEpochGranted, 1, Server;
    /// A device was renamed.
    DeviceRenamed, 1, Server;
    /// Labels were set or removed.
    DeviceLabelsChanged, 2, Server;
    /// Config variables were set or removed.
    DeviceConfigSet, 1, Server;
    /// A device applied its config.
    DeviceConfigApplied, 1, Device;
    /// A device reported its inventory.
    DeviceInventoryReported, 1, Device;
    /// A device's first connection was opened.
    DeviceConnected, 1, Server;
    /// A device's last connection was closed.
    DeviceDisconnected, 1, Server;
    /// A device recorded an event that this server cannot decode.
    DeviceEventUnreadable, 1, Server;
    /// A device declared a part of its history as lost.
    DeviceHistoryLost, 1, Device;
    /// Two branches of one device's history exist.
    DeviceForked, 1, Server;
    /// A device signs with a new key from here on.
    DeviceKeyRotated, 1, Device;
    /// A device was deleted; its history is kept.
    DeviceDeleted, 1, Server;
    /// A name was assigned to a device.
    DeviceNameReserved, 1, Server;
    /// A name was released.
    DeviceNameReleased, 1, Server;
    /// An enrollment token was created.
    EnrollmentTokenCreated, 4, Server;
    /// A device enrolled with an enrollment token.
    EnrollmentTokenUsed, 1, Server;
    /// An enrollment token was revoked.
    EnrollmentTokenRevoked, 1, Server;
    /// An API token was created.
    ApiTokenCreated, 1, Server;
    /// An API token was used; recorded at most once an hour.
    ApiTokenUsed, 1, Server;
    /// An API token was revoked.
    ApiTokenRevoked, 1, Server;
    /// A project was created.
    ProjectCreated, 1, Server;
    /// A project was renamed.
    ProjectRenamed, 1, Server;
    /// A project was archived: read-only, no new devices.
    ProjectArchived, 1, Server;
    /// An archived project was restored.
    ProjectRestored, 1, Server;
    /// The retention of a project's metrics was set.
    ProjectRetentionSet, 1, Server;
    /// An operation was requested.
    OperationRequested, 2, Server;
    /// An operation was paused: no further run starts.
    OperationPaused, 1, Server;
    /// An operation was resumed.
    OperationResumed, 1, Server;
    /// An operation was aborted: no further run starts, running ones are canceled.
    OperationAborted, 1, Server;
    /// A run of an operation was requested from a device.
    RunRequested, 1, Server;
    /// A run's order was signed; it is sent until the device responds.
    RunDispatched, 1, Server;
    /// Cancellation of a run was requested.
    RunCancelRequested, 1, Server;
    /// The server closed a run without the device's report.
    RunClosed, 1, Server;
    /// A device accepted a run.
    RunAccepted, 1, Device;
    /// A run's program was started.
    RunStarted, 1, Device;
    /// A run succeeded.
    RunSucceeded, 1, Device;
    /// A run's program failed, or could not be started.
    RunFailed, 1, Device;
    /// A run exceeded its timeout, and was ended.
    RunTimedOut, 1, Device;
    /// A run was canceled.
    RunCanceled, 1, Device;
    /// The agent stopped while the run was in progress; its end is unknown.
    RunInterrupted, 1, Device;
    /// A device rejected a run; nothing was done.
    RunRejected, 1, Device;
    /// An order arrived too late; nothing was done.
    RunExpired, 1, Device;
    /// A stored file was erased.
    UploadErased, 1, Server;
    /// The server cannot store a file that a device sends.
    UploadStalled, 1, Server;
    /// A download link for a file was created.
    DownloadLinkMade, 1, Server;
    /// A shell, a connection or a file transfer was requested.
    SessionRequested, 1, Server;
    /// A client attached to a session.
    SessionAttached, 1, Server;
    /// A client detached from a session.
    SessionDetached, 1, Server;
    /// A device refused a session.
    SessionRefused, 1, Server;
    /// A piece of a session's recording.
    SessionRecorded, 1, Server;
    /// A session ended.
    SessionEnded, 1, Server;
    /// A shell ended on its device.
    ShellEnded, 1, Device;
}
