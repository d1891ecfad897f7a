//! Messages of the stream of a list of devices.

use std::collections::BTreeMap;

use muster_schemas::{DeviceId, Position};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::devices::DeviceSummary;
use crate::metrics::WithoutFreshValue;
use crate::schema;
use crate::union::describe_union;

/// Data of a message of the stream, except `end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DeviceStreamMessage {
    /// The complete window.
    Window(DeviceWindow),
    /// A change of the window.
    Change(DeviceChange),
}

describe_union! {
    /// Data of a message of the stream, except `end`.
    DeviceStreamMessage {
        "window" => DeviceWindow,
        "change" => DeviceChange,
    }
}

/// Describes a device of which only some fields are present.
#[derive(Debug)]
pub struct PartialDevice(pub Value);

impl PartialSchema for PartialDevice {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(mut device)) = DeviceSummary::schema() else {
            return DeviceSummary::schema();
        };
        device.description = Some(
            "The id of a device, and those fields of `DeviceSummary` that were requested and, in \
             a change of a known device, have changed."
                .to_owned(),
        );
        device.required = vec!["id".to_owned()];
        device.example = None;
        RefOr::T(Schema::Object(device))
    }
}

impl ToSchema for PartialDevice {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        DeviceSummary::schemas(schemas);
    }
}

/// Data of the message `window`: a window of the sorted list, and the totals of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceWindow {
    /// Position of the log that the window includes.
    #[schema(value_type = u64)]
    pub position: Position,
    /// Number of devices of the list before the window.
    pub offset: u32,
    /// Number of devices in the list.
    pub total_count: u64,
    /// Number of devices in the list, by status.
    pub status_counts: BTreeMap<String, u64>,
    /// Metrics of the selector of which devices had no fresh value: those devices are not in the
    /// list. Absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub without_fresh_value: Vec<WithoutFreshValue>,
    /// The devices of the window in order, each with its id and the requested fields.
    #[schema(value_type = Vec<PartialDevice>)]
    pub items: Vec<Value>,
}

/// Data of the message `change`: what differs from the window that the client has. A field that is
/// absent has not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceChange {
    /// Position of the log that the window now includes.
    #[schema(value_type = u64)]
    pub position: Position,
    /// Number of devices in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_count: Option<u64>,
    /// Number of devices in the list, by status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_counts: Option<BTreeMap<String, u64>>,
    /// Metrics of the selector of which devices had no fresh value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_fresh_value: Option<Vec<WithoutFreshValue>>,
    /// Ids of the devices of the window, in order. Devices that are not in it have left the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::DeviceId>>)]
    pub order: Option<Vec<DeviceId>>,
    /// Devices that are new in the window, with the requested fields, and devices of which fields
    /// have changed, with their id and these fields.
    #[schema(value_type = Vec<PartialDevice>)]
    pub items: Vec<Value>,
}
