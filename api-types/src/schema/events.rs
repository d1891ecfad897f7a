//! Enumerations of events, and the statuses of runs, that are in responses.

use muster_schemas::Event;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// The type of an event.
#[derive(Debug)]
pub struct EventType(pub String);

impl utoipa::__dev::ComposeSchema for EventType {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        let types = Event::TYPES.iter().map(|(kind, _)| *kind);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The type of an event."))
            .enum_values(Some(types))
            .examples(["DeviceConnected"])
            .into()
    }
}

impl ToSchema for EventType {}

/// Why an operation was aborted.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortCause {
    /// An operator requested it.
    Asked,
    /// The number of unsuccessful runs reached the operation's limit.
    Failures,
}

/// Why a device rejects a run.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    /// The policy file on the device forbids it.
    Policy,
    /// It is invalid: no such user, a NUL in an argument, no such folder.
    Invalid,
    /// The private part is missing, or is not the signed one.
    PrivatePart,
    /// The device's queue of runs is full.
    Busy,
    /// This agent does not support the action.
    Unsupported,
}

/// Why a stored file was erased.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EraseCause {
    /// An operator deleted it.
    Asked,
    /// Its retention expired.
    Kept,
    /// A later upload of the same path was stored.
    Replaced,
}

/// The role of an API token.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads the state of devices and their metrics.
    Viewer,
    /// Reads, and changes devices.
    Operator,
    /// Reads and changes all, tokens included.
    Admin,
    /// Reads all, the log and the tokens included; changes nothing.
    Auditor,
}

/// Why a device is offline.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// The connection was closed.
    Closed,
    /// The device was silent for too long.
    Silent,
    /// The broker no longer listed the connection.
    Gone,
}

/// Why a part of a device's history was lost.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The outbox was full: these events were never recorded.
    OutboxFull,
    /// The log requested events that the device had already deleted.
    Pruned,
    /// The outbox was unreadable.
    Damaged,
}

/// Status of a run.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// The run waits for a slot or for its device.
    Requested,
    /// The order is sent repeatedly until the device responds.
    Dispatched,
    /// The order is in the device's journal.
    Accepted,
    /// Its program runs.
    Running,
    /// The run succeeded.
    Succeeded,
    /// Its program failed, or could not be started.
    Failed,
    /// The run exceeded its timeout.
    TimedOut,
    /// An operator canceled the run.
    Canceled,
    /// The run was not started in time.
    Expired,
    /// The device rejected the run.
    Rejected,
    /// The result is unknown.
    Unknown,
}
