//! The content of events in the API. Its names and units follow docs/api.md; the names in the log
//! are older, and permanent.

use data_encoding::BASE64;
use muster_api_types::actions::Action;
use muster_schemas::Event;
use muster_schemas::events::OperationRequested;
use serde_json::{Map, Value};

use crate::http::operations::requested_target;

/// How the value of a field is shown.
#[derive(Clone, Copy)]
enum Unit {
    /// As in the log.
    Same,
    /// Bytes as base64.
    Base64,
    /// Milliseconds as seconds.
    Milliseconds,
    /// Microseconds as seconds.
    Microseconds,
}

use Unit::{Base64, Microseconds, Milliseconds, Same};

/// The name of a field in the log, its name in the API, and its unit in the log. A field of an
/// object in the content has the name of the object before a dot.
type Field = (&'static str, &'static str, Unit);

/// Fields of the events with the result of a run.
const RUN_REPORT: &[Field] = &[
    ("user_us", "cpu_user_seconds", Microseconds),
    ("system_us", "cpu_system_seconds", Microseconds),
    ("peak_memory", "peak_memory_bytes", Same),
    ("stdout.bytes", "size_bytes", Same),
    ("stdout.kept", "stored_bytes", Same),
    ("stderr.bytes", "size_bytes", Same),
    ("stderr.kept", "stored_bytes", Same),
    ("file.bytes", "size_bytes", Same),
];

/// Returns the fields of a type of event whose names in the log differ from those in the API.
fn fields(kind: &str) -> &'static [Field] {
    match kind {
        "DeviceEnrollmentRequested" => &[
            ("signing_key", "signing_key_base64", Base64),
            ("machine", "machine_hash", Same),
            ("macs", "mac_hashes", Same),
            ("like", "same_machine", Same),
        ],
        "DeviceEnrolled" => &[
            ("signing_key", "signing_key_base64", Base64),
            ("machine", "machine_hash", Same),
            ("macs", "mac_hashes", Same),
        ],
        "DeviceEpochGranted" => &[("previous", "previous_epoch", Same)],
        "DeviceEventUnreadable" => &[("bytes", "record_base64", Base64)],
        "DeviceForked" => &[
            ("logged", "logged_hash", Same),
            ("other", "other_hash", Same),
            ("continues_in", "continues_in_epoch", Same),
        ],
        "DeviceHistoryLost" => &[
            ("count", "missing_count", Same),
            ("first_time", "first_occurred_at", Same),
            ("last_time", "last_occurred_at", Same),
        ],
        "DeviceInventoryReported" => {
            &[("machine", "machine_hash", Same), ("boot_time", "booted_at", Same)]
        }
        "DeviceKeyRotated" => {
            &[("signing_key", "signing_key_base64", Base64), ("proof", "proof_base64", Base64)]
        }
        "EnrollmentTokenCreated" => &[
            ("secret", "secret_hash", Same),
            ("uses", "max_uses", Same),
            ("approval", "approval_required", Same),
            ("allow_labels", "allowed_labels", Same),
        ],
        "ApiTokenCreated" | "DownloadLinkMade" => &[("secret", "secret_hash", Same)],
        "ApiTokenUsed" | "SessionAttached" => &[("address", "client_address", Same)],
        "OperationRequested" => &[
            ("devices", "device_count", Same),
            ("private.bytes", "size_bytes", Same),
            ("timeout_ms", "timeout_seconds", Milliseconds),
            ("at_once", "max_concurrent_devices", Same),
            ("stop_after", "max_failures", Same),
        ],
        "RunAccepted" => &[("order", "order_hash", Same)],
        "RunClosed" => &[("state", "status", Same)],
        "RunDispatched" => &[("order", "order_base64", Base64)],
        "RunSucceeded" | "RunFailed" | "RunTimedOut" | "RunCanceled" | "RunInterrupted" => {
            RUN_REPORT
        }
        "SessionEnded" => {
            &[("bytes_in", "sent_bytes", Same), ("bytes_out", "received_bytes", Same)]
        }
        "SessionRecorded" => &[("bytes", "size_bytes", Same)],
        "SessionRequested" => &[
            ("address", "client_address", Same),
            ("session.write", "writable", Same),
            ("session", "access", Same),
        ],
        "UploadStalled" => &[("bytes", "received_bytes", Same)],
        _ => &[],
    }
}

/// Returns the content of an event as an object of the API.
pub(super) fn data(event: Event) -> Option<Value> {
    let kind = event.kind();
    let shared = match &event {
        Event::OperationRequested(requested) => Some(action_and_target(requested)?),
        _ => None,
    };
    let mut value = serde_json::to_value(event).ok()?;
    let mut data = value.get_mut("data")?.take();
    let object = data.as_object_mut()?;
    for (path, name, unit) in fields(kind) {
        rename(object, path, name, *unit);
    }
    object.extend(shared.into_iter().flatten());
    Some(data)
}

/// Returns the fields that have the same shape as in operations.
fn action_and_target(requested: &OperationRequested) -> Option<[(String, Value); 2]> {
    let stdin_bytes = requested.private.map_or(0, |private| private.stdin_bytes);
    let action = Action::from_event(requested.action.clone(), stdin_bytes);
    let action = serde_json::to_value(action).ok()?;
    let target = serde_json::to_value(requested_target(requested)).ok()?;
    Some([("action".to_owned(), action), ("target".to_owned(), target)])
}

fn rename(object: &mut Map<String, Value>, path: &str, name: &str, unit: Unit) {
    let (object, old) = match path.split_once('.') {
        None => (Some(object), path),
        Some((outer, old)) => (object.get_mut(outer).and_then(Value::as_object_mut), old),
    };
    if let Some(object) = object
        && let Some(value) = object.remove(old)
    {
        object.insert(name.to_owned(), convert(value, unit));
    }
}

fn convert(value: Value, unit: Unit) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years of microseconds")]
    let seconds = |value: &Value, per_second: f64| value.as_u64().map(|n| n as f64 / per_second);
    let converted = match unit {
        Same => None,
        Base64 => bytes(&value).map(|bytes| BASE64.encode(&bytes).into()),
        Milliseconds => seconds(&value, 1e3).map(Value::from),
        Microseconds => seconds(&value, 1e6).map(Value::from),
    };
    converted.unwrap_or(value)
}

/// Returns the bytes that serde has written as an array of numbers.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    let numbers = value.as_array()?.iter();
    numbers.map(|number| u8::try_from(number.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jsonschema::Validator;
    use serde_json::json;

    use super::*;

    /// The newest stored shape of each type of event.
    fn samples() -> impl Iterator<Item = Event> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/golden");
        Event::TYPES.iter().map(move |(kind, version)| {
            let bytes = std::fs::read(folder.join(format!("{kind}.v{version}.cbor"))).unwrap();
            Event::decode(kind, *version, &bytes).unwrap()
        })
    }

    /// Lets a schema and the schemas in it refuse unknown fields.
    fn refuse_unknown(schema: &mut Value) {
        if let Some(object) = schema.as_object_mut() {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
            object.values_mut().for_each(refuse_unknown);
        } else if let Some(items) = schema.as_array_mut() {
            items.iter_mut().for_each(refuse_unknown);
        }
    }

    #[test]
    fn the_content_of_each_type_of_event_has_a_schema() {
        let mut document = serde_json::to_value(crate::http::openapi()).unwrap();
        for event in samples() {
            let kind = event.kind();
            let name = format!("{kind}Data");
            let schema = &mut document["components"]["schemas"][&name];
            assert!(schema.is_object(), "schemas.json has no {kind}");
            refuse_unknown(schema);
            let reference = format!("#/components/schemas/{name}");
            let schema = json!({"$ref": reference, "components": document["components"]});
            let validator = Validator::new(&schema).unwrap();
            let data = data(event).unwrap();
            let errors: Vec<String> =
                validator.iter_errors(&data).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{kind}: {errors:?}\n{data:#}");
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let described = schemas.keys().filter(|name| name.ends_with("Data")).count();
        assert_eq!(described, Event::TYPES.len(), "schemas of types that do not exist");
    }

    /// The names of docs/api.md.
    #[test]
    fn the_content_of_events_has_no_units_of_the_log() {
        fn check(kind: &str, value: &Value) {
            if let Some(object) = value.as_object() {
                for (name, value) in object {
                    let is_old = ["_ms", "_us", "_time"].iter().any(|end| name.ends_with(end));
                    assert!(!is_old && name != "bytes", "{kind}: {name}");
                    let is_bytes = value
                        .as_array()
                        .is_some_and(|items| items.len() > 8 && items.iter().all(Value::is_u64));
                    assert!(!is_bytes, "{kind}: {name} is not base64");
                    check(kind, value);
                }
            }
        }
        for event in samples() {
            let kind = event.kind();
            check(kind, &data(event).unwrap());
        }
    }

    #[test]
    fn units_are_converted() {
        for (value, unit, expected) in [
            (json!([1, 2, 255]), Base64, json!("AQL/")),
            (json!(1500), Milliseconds, json!(1.5)),
            (json!(1500), Microseconds, json!(0.0015)),
            (json!(null), Milliseconds, json!(null)),
            (json!({"a": 1}), Same, json!({"a": 1})),
        ] {
            assert_eq!(convert(value, unit), expected);
        }
    }
}
