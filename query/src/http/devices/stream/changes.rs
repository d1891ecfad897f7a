//! The messages of a stream of devices: a window, and the differences between two windows.

use std::collections::HashMap;

use muster_api::Problem;
use muster_api_types::device_stream::{DeviceChange, DeviceStreamMessage, DeviceWindow};
use muster_schemas::DeviceId;
use muster_schemas::selector::nearest;
use serde_json::{Map, Value};

use crate::device_windows::Window;

/// The fields of a device in a list.
const FIELDS: [&str; 13] = [
    "id",
    "name",
    "status",
    "labels",
    "hostname",
    "os",
    "arch",
    "agent_version",
    "last_seen_at",
    "metrics",
    "created_at",
    "created_by",
    "version",
];

/// The fields of a device that a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// All fields.
    All,
    /// These fields, and the id.
    Some(Vec<String>),
}

impl Fields {
    /// Parses a comma-separated list; without one, a client gets all fields.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Problem> {
        let Some(text) = text else { return Ok(Self::All) };
        let fields: Vec<String> = text.split(',').map(|field| field.trim().to_owned()).collect();
        match fields.iter().find(|field| !FIELDS.contains(&field.as_str())) {
            None => Ok(Self::Some(fields)),
            Some(unknown) => {
                let hint = nearest(unknown, FIELDS);
                let hint =
                    hint.map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
                let rule =
                    format!("is not a list of fields of a device: {}{hint}", FIELDS.join(", "));
                Err(Problem::parameter("fields", rule, Some(unknown.as_str().into())))
            }
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(fields) => name == "id" || fields.iter().any(|field| field == name),
        }
    }

    /// Returns the fields of an item, without those that it had before.
    fn of(&self, item: &Map<String, Value>, before: Option<&Map<String, Value>>) -> Value {
        let is_new = |name: &str, value: &Value| {
            name == "id" || before.is_none_or(|before| before.get(name) != Some(value))
        };
        let fields = item
            .iter()
            .filter(|(name, value)| self.contains(name) && is_new(name, value))
            .map(|(name, value)| (name.clone(), value.clone()));
        Value::Object(fields.collect())
    }
}

/// Returns the complete window.
pub(super) fn complete(window: &Window, offset: u32, fields: &Fields) -> DeviceStreamMessage {
    DeviceStreamMessage::Window(DeviceWindow {
        position: window.position,
        offset,
        total_count: window.total_count(),
        status_counts: window.status_counts.clone(),
        without_fresh_value: window.without_fresh_value.clone(),
        items: window.items.iter().map(|(_, item)| fields.of(item, None)).collect(),
    })
}

/// Returns what differs between the window that a client has and a newer one; `None` if nothing
/// that the client shows does.
pub(super) fn difference(
    old: &Window,
    new: &Window,
    fields: &Fields,
) -> Option<DeviceStreamMessage> {
    let before: HashMap<DeviceId, &Map<String, Value>> =
        old.items.iter().map(|(id, item)| (*id, item)).collect();
    let items: Vec<Value> = new
        .items
        .iter()
        .filter_map(|(id, item)| {
            let before = before.get(id).copied();
            let changed = fields.of(item, before);
            // The id is always contained.
            let has_changed = changed.as_object().is_some_and(|fields| fields.len() > 1);
            (before.is_none() || has_changed).then_some(changed)
        })
        .collect();
    let ids = |window: &Window| window.items.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let order = Some(ids(new)).filter(|order| *order != ids(old));
    let status_counts = (new.status_counts != old.status_counts).then(|| new.status_counts.clone());
    let without_fresh_value = (new.without_fresh_value != old.without_fresh_value)
        .then(|| new.without_fresh_value.clone());
    let is_empty = items.is_empty()
        && order.is_none()
        && status_counts.is_none()
        && without_fresh_value.is_none();
    (!is_empty).then(|| {
        DeviceStreamMessage::Change(DeviceChange {
            position: new.position,
            total_count: status_counts.as_ref().map(|_| new.total_count()),
            status_counts,
            without_fresh_value,
            order,
            items,
        })
    })
}

#[cfg(test)]
mod tests {
    use muster_schemas::Position;
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    type Device = (u128, u8, u8);

    /// A window of devices with an id, a label and a metric each.
    fn window(position: u64, devices: &[Device], online: u64) -> Window {
        let item = |&(id, label, metric): &Device| {
            let id = DeviceId(Uuid::from_u128(id));
            let item = json!({"id": id, "labels": {"n": label}, "metrics": {"m": metric}});
            (id, item.as_object().unwrap().clone())
        };
        Window {
            position: Position(position),
            status_counts: [("online".to_owned(), online)].into(),
            without_fresh_value: Vec::new(),
            items: devices.iter().map(item).collect(),
        }
    }

    /// What a client has: the order of the ids, and the fields of each device.
    #[derive(Debug, Default, PartialEq)]
    struct Client {
        order: Vec<DeviceId>,
        devices: HashMap<DeviceId, Map<String, Value>>,
        total: u64,
    }

    impl Client {
        fn id(item: &Value) -> DeviceId {
            item["id"].as_str().unwrap().parse().unwrap()
        }

        /// Applies a message, as docs/device-stream.md describes it.
        fn apply(&mut self, message: DeviceStreamMessage) {
            match message {
                DeviceStreamMessage::Window(window) => {
                    self.order = window.items.iter().map(Self::id).collect();
                    self.devices.clear();
                    self.total = window.total_count;
                    self.merge(&window.items);
                }
                DeviceStreamMessage::Change(change) => {
                    self.merge(&change.items);
                    self.order = change.order.unwrap_or(std::mem::take(&mut self.order));
                    self.devices.retain(|id, _| self.order.contains(id));
                    self.total = change.total_count.unwrap_or(self.total);
                }
            }
        }

        fn merge(&mut self, items: &[Value]) {
            for item in items {
                let fields = item.as_object().unwrap().clone();
                self.devices.entry(Self::id(item)).or_default().extend(fields);
            }
        }
    }

    fn devices() -> impl Strategy<Value = Vec<Device>> {
        let device = (0..8_u128, 0..3_u8, 0..3_u8);
        proptest::collection::vec(device, 0..6).prop_map(|mut devices| {
            let mut seen = std::collections::HashSet::new();
            devices.retain(|(id, ..)| seen.insert(*id));
            devices
        })
    }

    proptest! {
        /// A client that applies the changes has what a client that connects later gets.
        #[test]
        fn changes_lead_to_the_newest_window(
            steps in proptest::collection::vec((devices(), 0..3_u64), 1..8),
            only_labels in any::<bool>(),
        ) {
            let fields = match only_labels {
                true => Fields::Some(vec!["labels".to_owned()]),
                false => Fields::All,
            };
            let mut client = Client::default();
            let mut last: Option<Window> = None;
            for (position, (devices, online)) in steps.into_iter().enumerate() {
                let new = window(position as u64, &devices, online);
                match &last {
                    None => client.apply(complete(&new, 0, &fields)),
                    Some(old) => difference(old, &new, &fields).into_iter().for_each(|message| {
                        client.apply(message);
                    }),
                }
                let mut fresh = Client::default();
                fresh.apply(complete(&new, 0, &fields));
                prop_assert_eq!(&client, &fresh);
                last = Some(new);
            }
        }
    }

    #[test]
    fn a_change_has_only_what_differs() {
        let old = window(1, &[(1, 0, 0), (2, 0, 0)], 2);
        let message = |new: &Window, fields: &Fields| {
            serde_json::to_value(difference(&old, new, fields)).unwrap()
        };
        let id = |n: u128| Uuid::from_u128(n);
        let all = Fields::All;
        assert_eq!(message(&window(2, &[(1, 0, 0), (2, 0, 0)], 2), &all), Value::Null);
        let metric = window(2, &[(1, 0, 1), (2, 0, 0)], 2);
        assert_eq!(
            message(&metric, &all),
            json!({"kind": "change", "position": 2, "items": [{"id": id(1), "metrics": {"m": 1}}]})
        );
        assert_eq!(message(&metric, &Fields::parse(Some("labels, name")).unwrap()), Value::Null);
        assert_eq!(
            message(&window(3, &[(2, 0, 0)], 1), &all),
            json!({
                "kind": "change", "position": 3, "total_count": 1,
                "status_counts": {"online": 1}, "order": [id(2)], "items": []
            })
        );
    }

    #[test]
    fn unknown_fields_are_refused() {
        let refused = Fields::parse(Some("name,statsu")).unwrap_err();
        assert!(refused.detail().contains("did you mean 'status'?"), "{refused}");
        assert_eq!(Fields::parse(None).unwrap(), Fields::All);
    }
}
