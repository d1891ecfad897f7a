//! Samples of shapes that are no longer written, but are in the log for ever. Their bytes are put
//! together by hand, because no type of today writes them.

use ciborium::Value;
use muster_schemas::codec;
use muster_schemas::events::DeviceLabelsChanged;

use super::{Message, Sample, text};

pub(super) fn samples() -> Vec<Sample> {
    let labels = [("env", "prod"), ("site", "berlin-2")];
    let map = |entries: &[(&str, &str)]| {
        Value::Map(entries.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    };
    vec![Sample {
        name: "DeviceLabelsChanged",
        version: 1,
        bytes: codec::encode(&Value::Map(vec![("labels".into(), map(&labels))])),
        message: Message::Event(
            DeviceLabelsChanged {
                set: labels.iter().map(|(key, value)| (text(key), text(value))).collect(),
                removed: Vec::new(),
            }
            .into(),
        ),
        newest: false,
    }]
}
