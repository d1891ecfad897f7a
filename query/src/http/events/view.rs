//! Events in responses of the API.

use data_encoding::BASE64;
use muster_eventlog::StoredEvent;
use muster_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::projections::devices::has_implausible_time;

/// An event of the log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    /// Position in the project's log, from 1, without gaps.
    pub(crate) position: u64,
    /// Stream of the event.
    #[schema(example = "device/0198c0de-7000-7abc-8def-0123456789ab")]
    pub(crate) stream: String,
    /// Version in that stream, from 1; for a device's reports, the device's own `seq`.
    pub(crate) version: u64,
    /// Type of the event.
    #[serde(rename = "type")]
    #[schema(example = "DeviceConnected")]
    pub(crate) kind: String,
    /// Version of the stored schema; `data` has the newest version.
    pub(crate) schema_version: u16,
    /// Time of the event, by the clock of its actor.
    pub(crate) occurred_at: Timestamp,
    /// Time at which the event was recorded, by the database's clock.
    pub(crate) recorded_at: Timestamp,
    /// The actor that caused it.
    #[schema(example = "token:0198c0de-7001-7abc-8def-0123456789ab")]
    pub(crate) actor: String,
    /// Correlation id of the request that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correlation: Option<Uuid>,
    /// Id of its cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) causation: Option<Uuid>,
    /// Whether the device's own key has signed its record.
    pub(crate) sealed: bool,
    /// Whether its time is implausible.
    pub(crate) odd_time: bool,
    /// Content of the event; the shape depends on the type. Null when this server cannot decode it.
    #[schema(value_type = Option<Object>)]
    pub(crate) data: serde_json::Value,
    /// The exact bytes, base64; only with `include=record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<String>,
}

/// Optional parts of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Include {
    /// The exact bytes.
    Record,
}

impl EventView {
    pub(super) fn new(stored: &StoredEvent, include: Option<Include>) -> Self {
        let data = stored.event().ok().and_then(|event| {
            let mut value = serde_json::to_value(event).ok()?;
            Some(value.get_mut("data")?.take())
        });
        Self {
            position: stored.position,
            stream: stored.stream.to_string(),
            version: stored.stream_version,
            kind: stored.kind.clone(),
            schema_version: stored.schema_version,
            occurred_at: stored.occurred_at,
            recorded_at: stored.recorded_at,
            actor: stored.actor.clone(),
            correlation: stored.correlation,
            causation: stored.causation,
            sealed: stored.is_sealed(),
            odd_time: has_implausible_time(stored),
            data: data.unwrap_or(serde_json::Value::Null),
            record: include.map(|Include::Record| BASE64.encode(&stored.record)),
        }
    }
}
