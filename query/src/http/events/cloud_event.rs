//! Events in the form of CloudEvents 1.0 (structured, JSON).

use muster_api_types::events::Event;
use serde_json::{Map, Value, json};

/// Returns an event as a CloudEvent. `source` and `id` together are unique.
pub(super) fn cloud_event(event: Event) -> Value {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        // Attributes without a value are left out.
        if !value.is_null() {
            fields.insert(name.to_owned(), value);
        }
    };
    set("specversion", "1.0".into());
    set("id", event.position.to_string().into());
    set("source", format!("/api/v1/projects/{}", event.project).into());
    set("type", format!("muster.{}", event.kind).into());
    set("subject", event.stream.into());
    set("time", json!(event.occurred_at));
    set("datacontenttype", "application/json".into());
    let schema = format!("urn:muster:event:{}:{}", event.kind, event.schema_version);
    set("dataschema", schema.into());
    set("data", event.data);
    // Extensions: their names have lower-case letters and digits only.
    set("sequence", event.position.to_string().into());
    set("recordedtime", json!(event.recorded_at));
    set("actor", event.actor.into());
    set("correlationid", json!(event.correlation));
    set("causationid", json!(event.causation));
    Value::Object(fields)
}
