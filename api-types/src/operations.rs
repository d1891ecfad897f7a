//! Operations: requests to devices to run an action.

use std::collections::BTreeMap;
use std::fmt;

use muster_schemas::events::AbortCause;
use muster_schemas::{OperationId, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actions::Action;
use crate::devices::DeviceRef;
use crate::metrics::WithoutFreshValue;
use crate::union::describe_union;
use crate::{Open, WriteResult, schema};

/// The devices that an operation is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// Named devices.
    Devices(DevicesTarget),
    /// The devices that a selector selects at the time of the request.
    Selector(SelectorTarget),
}

describe_union! {
    /// The devices that an operation is for.
    Target {
        "devices" => DevicesTarget,
        "selector" => SelectorTarget,
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Devices(target) => f.write_str(&target.devices.join(",")),
            Self::Selector(target) => f.write_str(&target.selector),
        }
    }
}

/// Named devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicesTarget {
    /// Ids or names.
    #[schema(max_items = 1000, example = json!(["robot-7"]))]
    pub devices: Vec<String>,
}

/// The devices that a selector selects at the time of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectorTarget {
    /// Selector, as in `GET /devices`. An empty one selects all devices of the project.
    #[schema(example = "env=dev,online")]
    pub selector: String,
}

/// A request to run an action on devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "target": {"kind": "selector", "selector": "env=dev"},
    "action": {"kind": "exec", "argv": ["uname", "-a"]},
    "timeout_seconds": 60, "max_concurrent_devices": 10, "max_failures": 3
}))]
pub struct RequestOperation {
    /// Target devices.
    pub target: Target,
    /// Action that each device runs.
    pub action: Action,
    /// Timeout of a run, in seconds; default: 300, for an upload a day. Maximum: a day, for an
    /// upload 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub timeout_seconds: Option<u32>,
    /// Time, in seconds, after which runs that have not started expire, because their device is
    /// offline or no slot is free; default: a day.
    #[serde(default = "a_day")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub expires_in_seconds: u32,
    /// Maximum number of devices that run it concurrently; default: 100.
    #[serde(default = "a_hundred")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_concurrent_devices: u32,
    /// Number of unsuccessful runs after which the operation is aborted; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_failures: Option<u32>,
}

/// A requested operation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c0de-7002-7abc-8def-0123456789ab", "device_count": 12, "version": 1, "position": 42
}))]
pub struct OperationRequestedResult {
    /// Id of the operation.
    #[schema(value_type = schema::OperationId)]
    pub id: OperationId,
    /// Number of target devices.
    pub device_count: u64,
    /// Metrics of the selector of which devices had no fresh value: those devices are no targets.
    /// Absent if there are none, and in the response to a repeated request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_fresh_value: Vec<WithoutFreshValue>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub result: WriteResult,
}

/// Status of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationStatus {
    /// Runs are in progress or pending.
    Running,
    /// No further run starts until the operation is resumed.
    Paused,
    /// No further run starts, and some started runs have not ended.
    Aborting,
    /// The operation was aborted, and all of its runs have ended.
    Aborted,
    /// All of its runs have ended.
    Finished,
}

/// An operation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Id of the operation.
    #[schema(value_type = schema::OperationId)]
    pub id: OperationId,
    /// Status of the operation.
    #[schema(value_type = OperationStatus)]
    pub status: Open<OperationStatus>,
    /// Action of each run.
    #[schema(value_type = Action)]
    pub action: Open<Action>,
    /// The devices that were requested.
    #[schema(value_type = Target)]
    pub target: Open<Target>,
    /// Number of devices that it is for.
    pub device_count: u64,
    /// The actor that requested it.
    pub created_by: String,
    /// Time of the request.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Timeout of a run, in seconds.
    pub timeout_seconds: u32,
    /// Time at which runs that have not started expire.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
    /// Maximum number of devices that run it concurrently.
    pub max_concurrent_devices: u32,
    /// Number of unsuccessful runs after which it is aborted.
    pub max_failures: Option<u32>,
    /// Cause for which it was aborted.
    #[schema(value_type = Option<schema::AbortCause>)]
    pub abort_cause: Option<Open<AbortCause>>,
    /// Number of its runs by status; statuses without a run are left out.
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"running": 2, "succeeded": 10}))]
    pub run_counts: BTreeMap<String, u64>,
    /// Number of its runs that have ended.
    pub finished_count: u64,
    /// Version of its stream, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}

/// Runs that did not succeed for the same reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The reason.
    pub reason: String,
    /// Number of runs.
    pub run_count: u64,
    /// Some of their devices.
    pub devices: Vec<DeviceRef>,
}

/// A slow run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SlowRun {
    /// The device.
    pub device: DeviceRef,
    /// Duration of its program, in seconds.
    pub duration_seconds: f64,
}

/// An operation, and a summary of its runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OperationDetail {
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub operation: Operation,
    /// Reasons of unsuccessful runs, the most frequent first.
    pub failures: Vec<Failure>,
    /// The slowest runs that have ended.
    pub slowest_runs: Vec<SlowRun>,
}

const fn a_day() -> u32 {
    24 * 3600
}

const fn a_hundred() -> u32 {
    100
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::actions::UploadAction;

    /// An older server refuses fields that it does not know, so new ones must be absent by default.
    #[test]
    fn requests_have_only_the_given_optional_fields() {
        let request = RequestOperation {
            target: Target::Selector(SelectorTarget { selector: "env=dev".to_owned() }),
            action: Action::Upload(UploadAction {
                path: "x".to_owned(),
                ..UploadAction::default()
            }),
            timeout_seconds: None,
            expires_in_seconds: 60,
            max_concurrent_devices: 1,
            max_failures: None,
        };
        let expected = json!({
            "target": {"kind": "selector", "selector": "env=dev"},
            "action": {"kind": "upload", "path": "x"},
            "expires_in_seconds": 60, "max_concurrent_devices": 1,
        });
        assert_eq!(json!(request), expected);
    }
}
