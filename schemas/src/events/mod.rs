//! The events: past-tense facts, as they stand in the log.
//!
//! An event has a type name and the version of its shape; both stand beside its bytes in the log.
//! [`Event::decode`] takes any version that was ever stored and lifts it to today's shape.

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
    RunAccepted, RunCancelRequested, RunCanceled, RunClosed, RunDispatched, RunExpired, RunFailed,
    RunInterrupted, RunRejected, RunReport, RunRequested, RunStarted, RunSucceeded, RunTimedOut,
    Upload,
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

/// Why stored bytes could not be read as an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// No such type is known.
    #[error("no event has the type '{0}'")]
    UnknownType(String),
    /// The type is known, this version of it is not.
    #[error("version {version} of {kind} is not known here; the newest is {newest}")]
    UnknownVersion {
        /// The type.
        kind: &'static str,
        /// The version that was met.
        version: u16,
        /// The newest version that this code knows.
        newest: u16,
    },
    /// The bytes do not have the type's shape.
    #[error("{kind} version {version}: {source}")]
    Malformed {
        /// The type.
        kind: &'static str,
        /// The version that was met.
        version: u16,
        /// What is wrong with the bytes.
        source: DecodeError,
    },
}

macro_rules! events {
    ($( $(#[$doc:meta])* $name:ident, $version:literal, $by:ident; )+) => {
        /// Any event.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(tag = "type", content = "data")]
        pub enum Event {
            $( $(#[$doc])* $name($name), )+
        }

        impl Event {
            /// Every type with the newest version of its shape.
            pub const TYPES: &'static [(&'static str, u16)] = &[$((stringify!($name), $version)),+];

            /// The event's type, as it stands in the log.
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

            /// Reads an event of any version that was ever stored.
            ///
            /// # Errors
            /// When type or version are not known, or the bytes are not of that shape.
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
    /// An operator, or an enrollment, made a device known.
    DeviceRegistered, 2, Server;
    /// A machine wants to be a device, and waits for an operator.
    DeviceEnrollmentRequested, 2, Server;
    /// An operator let a waiting machine in.
    DeviceEnrollmentAccepted, 1, Server;
    /// An operator sent a waiting machine away.
    DeviceEnrollmentRejected, 1, Server;
    /// A device's keys are worth nothing until it enrolls again.
    DeviceRevoked, 1, Server;
    /// A device's keys were bound to it; a new epoch began.
    DeviceEnrolled, 2, Server;
    /// A device may go on in a new epoch.
    DeviceEpochGranted, 1, Server;
    /// A device has a new name.
    DeviceRenamed, 1, Server;
    /// Labels were set or removed.
    DeviceLabelsChanged, 2, Server;
    /// Config variables were set or removed.
    DeviceConfigSet, 1, Server;
    /// A device works by these config variables now.
    DeviceConfigApplied, 1, Device;
    /// A device says what it is made of.
    DeviceInventoryReported, 1, Device;
    /// The first connection of a device was opened.
    DeviceConnected, 1, Server;
    /// The last connection of a device was closed.
    DeviceDisconnected, 1, Server;
    /// A device recorded something that this server cannot read.
    DeviceEventUnreadable, 1, Server;
    /// A device can no longer tell a part of its history.
    DeviceHistoryLost, 1, Device;
    /// Two branches of one device's history exist.
    DeviceForked, 1, Server;
    /// A device signs with a new key from here on.
    DeviceKeyRotated, 1, Device;
    /// A device was deleted; its history stays.
    DeviceDeleted, 1, Server;
    /// A name was given to a device.
    DeviceNameReserved, 1, Server;
    /// A name is free again.
    DeviceNameReleased, 1, Server;
    /// An enrollment token was made.
    EnrollmentTokenCreated, 4, Server;
    /// A device enrolled with an enrollment token.
    EnrollmentTokenUsed, 1, Server;
    /// An enrollment token was revoked.
    EnrollmentTokenRevoked, 1, Server;
    /// An API token was made.
    ApiTokenCreated, 1, Server;
    /// An API token was used; recorded at most once an hour.
    ApiTokenUsed, 1, Server;
    /// An API token was revoked.
    ApiTokenRevoked, 1, Server;
    /// A project was made.
    ProjectCreated, 1, Server;
    /// A project is called something else.
    ProjectRenamed, 1, Server;
    /// A project takes no more changes and devices.
    ProjectArchived, 1, Server;
    /// An archived project is at work again.
    ProjectRestored, 1, Server;
    /// A project's metrics are kept for another time.
    ProjectRetentionSet, 1, Server;
    /// Something was asked of devices.
    OperationRequested, 1, Server;
    /// No further run of an operation is begun for now.
    OperationPaused, 1, Server;
    /// Runs of an operation are begun again.
    OperationResumed, 1, Server;
    /// No further run of an operation is begun, and those at work are canceled.
    OperationAborted, 1, Server;
    /// A device has its share of an operation.
    RunRequested, 1, Server;
    /// The order for a device was signed, and is sent until the device answers.
    RunDispatched, 1, Server;
    /// A run is to be ended.
    RunCancelRequested, 1, Server;
    /// The server no longer waits for a device's word on a run.
    RunClosed, 1, Server;
    /// A device has taken a run.
    RunAccepted, 1, Device;
    /// A run's program runs.
    RunStarted, 1, Device;
    /// A run did what was asked.
    RunSucceeded, 1, Device;
    /// A run's program failed, or could not be started.
    RunFailed, 1, Device;
    /// A run took longer than it may, and was ended.
    RunTimedOut, 1, Device;
    /// A run was ended because somebody asked for it.
    RunCanceled, 1, Device;
    /// The agent was gone while the run was at work; its end is not known.
    RunInterrupted, 1, Device;
    /// A device refuses a run; nothing was done.
    RunRejected, 1, Device;
    /// An order came too late; nothing was done.
    RunExpired, 1, Device;
    /// A file that a device has sent is not kept any more.
    UploadErased, 1, Server;
    /// The server cannot keep what a device sends.
    UploadStalled, 1, Server;
    /// Somebody made a link by which a file can be downloaded.
    DownloadLinkMade, 1, Server;
    /// Somebody wants a shell, or a connection, on a device.
    SessionRequested, 1, Server;
    /// Somebody attaches to a session.
    SessionAttached, 1, Server;
    /// Somebody is not attached to a session any more.
    SessionDetached, 1, Server;
    /// A device did not open a session, or a connection.
    SessionRefused, 1, Server;
    /// A piece of a session's recording.
    SessionRecorded, 1, Server;
    /// A session, or a connection, is over.
    SessionEnded, 1, Server;
    /// A shell has ended on its device.
    ShellEnded, 1, Device;
}
