//! Writes to many devices in one request.

use std::collections::BTreeMap;

use muster_schemas::StreamVersion;
use muster_schemas::names::{ConfigKey, ConfigValue, DeviceName, LabelKey, LabelValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::{ConfigChange, DeviceRef, LabelChange, RegisterDevice};
use crate::metrics::WithoutFreshValue;
use crate::operations::Target;
use crate::problems::ProblemDocument;
use crate::schema;

/// Maximum number of devices that one request registers.
pub const MAX_REGISTERED: usize = 1_000;

/// A request to register devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"devices": [
    {"name": "robot-7", "labels": {"env": "prod"}}, {"name": "robot-8", "labels": {"env": "prod"}}
]}))]
pub struct RegisterDevices {
    /// The devices.
    #[schema(min_items = 1, max_items = 1000)]
    pub devices: Vec<RegisterDevice>,
}

/// Result of a request to register devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "registered_count": 1, "failed_count": 1,
    "items": [
        {
            "name": "robot-7", "version": 1,
            "device": {"id": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7"}
        },
        {"name": "robot-8", "problem": {
            "type": "/problems/name-taken", "title": "Name taken", "status": 409,
            "detail": "another device has this name",
            "device": {"id": "0198c0de-7001-7abc-8def-0123456789ab", "name": "robot-8"}
        }}
    ]
}))]
pub struct RegisterDevicesResult {
    /// Number of devices that were registered.
    pub registered_count: u64,
    /// Number of devices that were not registered.
    pub failed_count: u64,
    /// Result for each device, in the order of the request.
    pub items: Vec<RegisteredItem>,
}

/// Result for a device of a request to register devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RegisteredItem {
    /// Name in the request.
    #[schema(value_type = schema::DeviceName)]
    pub name: DeviceName,
    /// The device; absent if it was not registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRef>,
    /// Version of the device; absent if it was not registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub version: Option<StreamVersion>,
    /// Why the device was not registered; absent if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemDocument>,
}

/// A request to label and configure devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "target": {"kind": "selector", "selector": "site=berlin"},
    "labels": {"env": "prod", "retired": null}, "vars": {"log.level": "info"}
}))]
pub struct ChangeDevices {
    /// Target devices, at most 20,000; enrolled or not.
    pub target: Target,
    /// Labels: a value sets, `null` removes; other labels are unchanged.
    #[serde(default)]
    #[schema(value_type = BTreeMap<schema::LabelKey, LabelChange>, inline)]
    pub labels: BTreeMap<LabelKey, Option<LabelValue>>,
    /// Config variables: a value sets, `null` removes; others are unchanged. A value keeps its
    /// type.
    #[serde(default)]
    #[schema(value_type = BTreeMap<schema::ConfigKey, ConfigChange>, inline)]
    pub vars: BTreeMap<ConfigKey, Option<ConfigValue>>,
    /// Whether to return the target devices without changing them.
    #[serde(default)]
    pub dry_run: bool,
}

/// A request to delete devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "target": {"kind": "selector", "selector": "env=test,offline"}, "dry_run": true
}))]
pub struct DeleteDevices {
    /// Target devices, at most 20,000; enrolled or not. An empty selector is refused: `id=*` selects
    /// all devices of the project.
    pub target: Target,
    /// Whether to return the target devices without deleting them.
    #[serde(default)]
    pub dry_run: bool,
}

/// Result of a write to many devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "dry_run": false, "device_count": 1, "failed_count": 0,
    "items": [{
        "device": {"id": "0198c0de-7000-7abc-8def-0123456789ab", "name": "robot-7"}, "version": 4
    }]
}))]
pub struct BulkResult {
    /// Whether nothing was written, because the request has `dry_run`.
    pub dry_run: bool,
    /// Number of target devices.
    pub device_count: u64,
    /// Number of target devices that were not written.
    pub failed_count: u64,
    /// Metrics of the selector of which devices had no fresh value: those devices are not targets.
    /// Absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub without_fresh_value: Vec<WithoutFreshValue>,
    /// Result for each target device, ordered by id.
    pub items: Vec<BulkItem>,
}

/// Result of a write for one device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BulkItem {
    /// The device.
    pub device: DeviceRef,
    /// Version of the device after the write; absent if nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub version: Option<StreamVersion>,
    /// Why the device was not written; absent if it was, and in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemDocument>,
}
