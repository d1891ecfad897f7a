//! Events of a log, and its end.

use muster_schemas::{Hash, Position, ProjectId, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{AdditionalProperties, Schema, SchemaType};
use utoipa::openapi::{ObjectBuilder, Type};
use uuid::Uuid;

use crate::schema;

/// An event of the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The project.
    #[schema(value_type = schema::ProjectId)]
    pub project: ProjectId,
    /// Position in the project's log, from 1, without gaps.
    #[schema(value_type = u64)]
    pub position: Position,
    /// Stream of the event.
    #[schema(example = "device/0198c0de-7000-7abc-8def-0123456789ab")]
    pub stream: String,
    /// Version in that stream, from 1; for a device's reports, the device's own `seq`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
    /// Type of the event.
    #[serde(rename = "type")]
    #[schema(value_type = schema::EventType)]
    pub kind: String,
    /// Version of the stored schema; `data` has the newest version.
    pub schema_version: u16,
    /// Time of the event, by the clock of its actor.
    #[schema(value_type = schema::Timestamp)]
    pub occurred_at: Timestamp,
    /// Time at which the event was recorded, by the database's clock.
    #[schema(value_type = schema::Timestamp)]
    pub recorded_at: Timestamp,
    /// The actor that caused it.
    #[schema(example = "token:0198c0de-7001-7abc-8def-0123456789ab")]
    pub actor: String,
    /// Correlation id of the request that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Uuid>,
    /// Id of its cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causation: Option<Uuid>,
    /// Whether the device's own key has signed its record.
    pub sealed: bool,
    /// Whether its time is implausible.
    pub time_implausible: bool,
    /// Content of the event: the schema `<type>Data` of this document. Null when this server cannot
    /// decode it.
    #[schema(schema_with = any_object)]
    pub data: serde_json::Value,
    /// The exact bytes, base64; only with `include=record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(content_encoding = "base64")]
    pub record_base64: Option<String>,
}

/// Name of the last server-sent event of a stream that the server ends.
pub const END_EVENT: &str = "end";

/// Data of the last server-sent event of a stream that the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEnd {
    /// The reason.
    pub reason: StreamEndReason,
}

/// Why the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamEndReason {
    /// The server stops; reconnect.
    ServerStopping,
    /// The token was revoked, has expired or has another role by now.
    TokenInvalid,
}

/// The end of a project's log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogHead {
    /// The project.
    #[schema(value_type = schema::ProjectId)]
    pub project: ProjectId,
    /// The newest position; 0 when the log is empty.
    #[schema(value_type = u64)]
    pub position: Position,
    /// Time at which the newest event was recorded.
    #[schema(value_type = schema::Timestamp)]
    pub recorded_at: Timestamp,
    /// Root of the Merkle tree over all positions so far.
    #[schema(value_type = schema::Hash)]
    pub root: Hash,
}

/// Returns the schema of an event's content.
fn any_object() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .description(Some(
            "Content of the event: the schema `<type>Data` of this document. Null when this server \
             cannot decode it.",
        ))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(true)))
        .into()
}
