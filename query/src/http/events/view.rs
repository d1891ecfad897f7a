//! An event as the API shows it.

use data_encoding::BASE64;
use muster_eventlog::StoredEvent;
use muster_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::projections::devices::is_odd;

/// An event of the log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    /// Its place in the project's log, from 1, without a gap.
    pub(crate) position: u64,
    /// The stream that it belongs to.
    #[schema(example = "device/0198c0de-7000-7abc-8def-0123456789ab")]
    pub(crate) stream: String,
    /// Its place in that stream, from 1; of a device's reports, the device's own `seq`.
    pub(crate) version: u64,
    /// Its type.
    #[serde(rename = "type")]
    #[schema(example = "DeviceConnected")]
    pub(crate) kind: String,
    /// The version of the shape that it is stored in; `data` has today's.
    pub(crate) schema_version: u16,
    /// When it happened, as claimed by whoever recorded it.
    pub(crate) occurred_at: Timestamp,
    /// When it came into the log, by the database's clock.
    pub(crate) recorded_at: Timestamp,
    /// Who caused it.
    #[schema(example = "token:0198c0de-7001-7abc-8def-0123456789ab")]
    pub(crate) actor: String,
    /// The request that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correlation: Option<Uuid>,
    /// What caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) causation: Option<Uuid>,
    /// Is its record sealed by the device's own key?
    pub(crate) sealed: bool,
    /// Does it claim a time that cannot be?
    pub(crate) odd_time: bool,
    /// What it says; the shape depends on the type. Null when this server cannot read it.
    #[schema(value_type = Option<Object>)]
    pub(crate) data: serde_json::Value,
    /// Its exact bytes, base64; only with `include=record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<String>,
}

/// What an event is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Include {
    /// Its exact bytes.
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
            odd_time: is_odd(stored),
            data: data.unwrap_or(serde_json::Value::Null),
            record: include.map(|Include::Record| BASE64.encode(&stored.record)),
        }
    }
}
