//! Why a command is rejected.

use muster_schemas::names::{DeviceName, ProjectTitle};
use muster_schemas::{DeviceId, ProjectId};

/// A command is rejected. The domain does not know the HTTP status that follows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The aggregate does not exist, or was deleted.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Nothing has this name.
    #[error("there is no {what} '{name}'")]
    NameNotFound {
        /// Kind of the requested object.
        what: &'static str,
        /// The requested name.
        name: String,
    },
    /// The object exists already, or the command conflicts with its state.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The command violates a rule.
    #[error("{rule}")]
    Invalid {
        /// Field that violates the rule.
        field: &'static str,
        /// The rule.
        rule: String,
        /// Value of the field, as text.
        value: String,
    },
    /// The token does not authorize it.
    #[error(transparent)]
    TokenRefused(#[from] TokenRefusal),
    /// An operator has rejected it.
    #[error("{0}")]
    Refused(String),
}

/// A command conflicts with the state of its object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The device was registered before.
    #[error("the device is registered already")]
    DeviceExists,
    /// The device has no valid keys.
    #[error("device {name} {state}")]
    NotEnrolled {
        /// Name of the device.
        name: DeviceName,
        /// Its state.
        state: NotEnrolled,
    },
    /// The device has enrolled, or its enrollment is already pending.
    #[error("the device's enrollment is not pending")]
    CannotBecomePending,
    /// There is no enrollment to accept or reject.
    #[error("the enrollment of {0} is not pending")]
    NotPending(DeviceName),
    /// There are no keys to revoke.
    #[error("{0} has no keys: it never enrolled")]
    NothingToRevoke(DeviceName),
    /// There is no key to rotate.
    #[error("the device has no key to rotate: it never enrolled, or it was revoked")]
    NothingToRotate,
    /// A pending machine cannot become itself.
    #[error("a device cannot replace itself")]
    ReplacesItself,
    /// The machine is no longer the device that this enrollment made it.
    #[error("this enrollment has ended: the device was deleted or has enrolled again since")]
    EnrollmentEnded,
    /// Another device holds the name.
    #[error("another device has this name")]
    NameInUse(DeviceId),
    /// Another device holds the name, and every name derived from it.
    #[error("another device is named '{0}'; choose another name")]
    NamesInUse(DeviceName),
    /// A token with this id exists.
    #[error("the token exists already")]
    TokenExists,
    /// A project with this id exists.
    #[error("the project exists already, with the title '{0}'")]
    ProjectExists(ProjectTitle),
    /// The server has its maximum number of projects.
    #[error("the server has {0} projects, which is the maximum")]
    TooManyProjects(usize),
    /// The project is read-only.
    #[error("project {0} is archived; restore it first")]
    ProjectArchived(ProjectId),
    /// An operation with this id exists.
    #[error("the operation exists already")]
    OperationExists,
    /// The operation was aborted.
    #[error("the operation was aborted")]
    OperationAborted,
    /// All runs of the operation have ended.
    #[error("the operation has finished; there is nothing left to change")]
    OperationFinished,
    /// The run has ended.
    #[error("the run has ended; there is nothing left to change")]
    RunEnded,
    /// The file of an upload was erased.
    #[error("the file was erased; there is nothing to link to")]
    FileErased,
    /// The dead letter was too large to store all of it.
    #[error("only a part of this dead letter is stored, so it cannot be sent again")]
    DeadLetterTruncated,
    /// The dead letter was not sent by a device.
    #[error("the dead letter's subject is not a device's")]
    DeadLetterNotFromDevice,
    /// The id of a request for a new epoch belongs to another request.
    #[error("the request id was used before")]
    RequestIdUsed,
    /// Other requests changed the object each time.
    #[error("it is being changed by many requests concurrently; try again")]
    TooManyChanges,
}

/// State of a device without valid keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotEnrolled {
    /// Its keys were revoked.
    #[error("was revoked; enroll it again with a token that is made for it")]
    Revoked,
    /// Its enrollment is pending.
    #[error("waits to be accepted; accept it first")]
    Pending,
    /// It never enrolled.
    #[error("has never enrolled; enroll it first")]
    NeverEnrolled,
}

/// Why an enrollment token does not authorize an enrollment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// The text is not an enrollment token.
    #[error("this is not an enrollment token (mse_…); check that it was copied completely")]
    NotAToken,
    /// The token does not exist, or its secret is wrong.
    #[error(
        "the enrollment token is unknown; check that it was copied completely, and that it is \
         for this server"
    )]
    Unknown,
    /// It was revoked.
    #[error("the enrollment token was revoked; ask for a new one")]
    Revoked,
    /// It has expired.
    #[error("the enrollment token has expired; ask for a new one")]
    Expired,
    /// As many devices as it permits have enrolled.
    #[error("the enrollment token has reached its maximum number of uses; ask for a new one")]
    UsedUp,
    /// It is valid for another device only.
    #[error("the enrollment token was made for another device")]
    OtherDevice,
    /// It belongs to the project `system`.
    #[error("the project system has no devices")]
    SystemProject,
    /// The machine's key belongs to a revoked device.
    #[error(
        "this machine's key belongs to a revoked device; ask for an enrollment token for that device"
    )]
    DeviceRevoked,
}
