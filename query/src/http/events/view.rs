//! Events in responses of the API.

use data_encoding::BASE64;
use muster_api_types::events::Event;
use muster_eventlog::StoredEvent;
use muster_schemas::ProjectId;
use serde::Deserialize;
use utoipa::ToSchema;

use super::data::data;
use crate::projections::devices::has_implausible_time;

/// Optional parts of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Include {
    /// The exact bytes.
    Record,
}

pub(super) fn view(project: &ProjectId, stored: &StoredEvent, include: Option<Include>) -> Event {
    let data = stored.event().ok().and_then(data);
    Event {
        project: project.clone(),
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
        time_implausible: has_implausible_time(stored),
        data: data.unwrap_or(serde_json::Value::Null),
        record_base64: include.map(|Include::Record| BASE64.encode(&stored.record)),
    }
}
