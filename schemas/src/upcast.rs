//! Upcasters: pure functions that lift a stored shape to the next one, applied on read.
//!
//! To change an event's shape: raise its version in [`crate::events`], add one function here that
//! lifts the previous shape, and add a golden file of the new shape. Stored bytes are never changed.
//!
//! Example: `DeviceLabelsChanged`. Version 1 had the labels that were set, and no way to remove one;
//! version 2 has the labels that were set and those that were removed.

use ciborium::Value;

use crate::codec::{self, DecodeError};

/// Lifts one stored shape to the next version of it.
type Upcaster = fn(Value) -> Result<Value, DecodeError>;

/// The upcaster that lifts `kind` from `version` to `version + 1`.
fn upcaster(kind: &str, version: u16) -> Option<Upcaster> {
    match (kind, version) {
        ("DeviceLabelsChanged", 1) => Some(device_labels_changed_1),
        ("OperationRequested", 1) => Some(operation_requested_1),
        // The next version has one more field, which is absent in the previous one.
        (
            "DeviceRegistered"
            | "DeviceEnrollmentRequested"
            | "DeviceEnrolled"
            | "EnrollmentTokenCreated",
            1,
        )
        | ("EnrollmentTokenCreated", 2 | 3) => Some(Ok),
        _ => None,
    }
}

/// Lifts an event's bytes from `version` to `newest`.
///
/// # Errors
/// When the bytes do not have the shape of their version.
pub fn to_newest(
    kind: &str,
    version: u16,
    newest: u16,
    bytes: &[u8],
) -> Result<Vec<u8>, DecodeError> {
    let mut value: Value = codec::decode(bytes)?;
    for from in version..newest {
        let lift = upcaster(kind, from).ok_or_else(|| {
            DecodeError::Malformed(format!("there is no upcaster from version {from}"))
        })?;
        value = lift(value)?;
    }
    Ok(codec::encode(&value))
}

/// `{"labels": {…}}` becomes `{"set": {…}, "removed": []}`.
fn device_labels_changed_1(value: Value) -> Result<Value, DecodeError> {
    let mut entries =
        value.into_map().map_err(|_| DecodeError::Malformed("not a map".to_owned()))?;
    let index = entries
        .iter()
        .position(|(key, _)| key.as_text() == Some("labels"))
        .ok_or_else(|| DecodeError::Malformed("'labels' is missing".to_owned()))?;
    let (_, labels) = entries.swap_remove(index);
    Ok(Value::Map(vec![
        (Value::Text("set".into()), labels),
        (Value::Text("removed".into()), Value::Array(Vec::new())),
    ]))
}

/// The text of `target` becomes `{"text": …}`.
fn operation_requested_1(value: Value) -> Result<Value, DecodeError> {
    let mut entries =
        value.into_map().map_err(|_| DecodeError::Malformed("not a map".to_owned()))?;
    for (key, value) in &mut entries {
        if key.as_text() == Some("target") {
            *value = Value::Map(vec![(Value::Text("text".into()), value.clone())]);
        }
    }
    Ok(Value::Map(entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;
    use crate::events::DeviceLabelsChanged;

    #[test]
    fn version_1_of_labels_changed_still_decodes() {
        // {"labels": {"env": "prod"}}
        let stored = b"\xa1\x66labels\xa1\x63env\x64prod";
        let expected = DeviceLabelsChanged {
            set: [("env".parse(), "prod".parse())]
                .into_iter()
                .filter_map(|(key, value)| Some((key.ok()?, value.ok()?)))
                .collect(),
            removed: Vec::new(),
        };
        assert_eq!(Event::decode("DeviceLabelsChanged", 1, stored), Ok(expected.into()));
        assert!(Event::decode("DeviceLabelsChanged", 1, b"\xa0").is_err());
        assert!(Event::decode("DeviceLabelsChanged", 3, stored).is_err());
    }

    #[test]
    fn every_version_below_the_newest_has_an_upcaster() {
        for (kind, newest) in Event::TYPES {
            for version in 1..*newest {
                assert!(upcaster(kind, version).is_some(), "{kind} {version}");
            }
        }
    }
}
