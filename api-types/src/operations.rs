//! Operations: requests to devices to run an action.

use std::collections::BTreeMap;

use muster_schemas::events::{AbortCause, Action};
use muster_schemas::{OperationId, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::metrics::WithoutFreshValue;
use crate::{Open, WriteResult, schema};

/// Target devices: `devices` or `selector`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationTarget {
    /// Names or ids of devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub devices: Option<Vec<String>>,
    /// Selector, as in `GET /devices`. An empty one selects all devices of the project. Only enrolled
    /// devices are targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "env=dev,online")]
    pub selector: Option<String>,
}

/// Action that each device runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ActionRequest {
    /// Run a program: `argv` or `shell`.
    Exec {
        /// Program and its arguments, run without a shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        argv: Option<Vec<String>>,
        /// Command line for `/bin/sh -c`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shell: Option<String>,
        /// Working directory; default: the user's home.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        /// User that the program runs as; default: the agent's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// Environment variables. The log contains only their names.
        #[serde(default)]
        env: BTreeMap<String, String>,
        /// Standard input, as text. The log contains only its length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdin: Option<String>,
        /// Standard input, as base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdin_base64: Option<String>,
        /// Whether the run ends as soon as the program has started. The program continues, and its
        /// output is not kept.
        #[serde(default)]
        background: bool,
    },
    /// Stop the agent, so that its service manager starts it again.
    RestartAgent {},
    /// Restart the machine.
    Reboot {},
    /// Collect diagnostics: a gzip-compressed tar archive, as standard output.
    Diagnostics {},
    /// Change the agent's log level.
    LogLevel {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
        /// Time after which the configured level applies again, in seconds; default: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 1)]
        seconds: Option<u32>,
    },
    /// Upload a file or a folder to the server, which stores it: `GET /uploads`.
    Upload {
        /// Path of the file: absolute, or relative to the home of the agent's user. A folder
        /// becomes a tar archive, compressed with gzip.
        #[schema(min_length = 1, max_length = 4096, example = "/var/log/app.log")]
        path: String,
        /// Whether the device removes the file once the server has all of it. Not for folders.
        #[serde(default)]
        remove_source: bool,
        /// Whether this upload, once it is stored, replaces earlier uploads of the same path of the
        /// same device, which are erased.
        #[serde(default)]
        replace: bool,
        /// Time after which the stored copy is erased, in seconds since it was stored; default:
        /// never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 1)]
        keep_seconds: Option<u32>,
        /// Maximum size of the file, in bytes; default: 1 GiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 1, maximum = 68_719_476_736_u64)]
        max_bytes: Option<u64>,
        /// Maximum rate of the upload, in bytes per second; default: unlimited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 1024)]
        bytes_per_second: Option<u64>,
    },
}

/// A request to run an action on devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "target": {"selector": "env=dev"}, "action": {"kind": "exec", "argv": ["uname", "-a"]},
    "timeout_seconds": 60, "at_once": 10, "stop_after": 3
}))]
pub struct RequestOperation {
    /// Target devices.
    pub target: OperationTarget,
    /// Action that each device runs.
    pub action: ActionRequest,
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
    pub at_once: u32,
    /// Number of unsuccessful runs after which the operation is aborted; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub stop_after: Option<u32>,
}

/// A requested operation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c0de-7002-7abc-8def-0123456789ab", "devices": 12, "version": 1, "position": 42
}))]
pub struct OperationRequestedResult {
    /// Id of the operation.
    #[schema(value_type = schema::OperationId)]
    pub id: OperationId,
    /// Number of target devices.
    pub devices: u64,
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
pub struct OperationView {
    /// Id of the operation.
    #[schema(value_type = schema::OperationId)]
    pub id: OperationId,
    /// Status of the operation.
    #[schema(value_type = OperationStatus)]
    pub status: Open<OperationStatus>,
    /// Action of each run.
    #[schema(value_type = schema::Action)]
    pub action: Open<Action>,
    /// Target as written in the request.
    pub target: String,
    /// Number of devices that the target selected.
    pub devices: u64,
    /// The actor that requested it.
    pub actor: String,
    /// Time of the request.
    #[schema(value_type = schema::Timestamp)]
    pub requested_at: Timestamp,
    /// Maximum duration of a run, in milliseconds.
    pub timeout_ms: u64,
    /// Time at which runs that have not started expire.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
    /// Maximum number of devices that run it concurrently.
    pub at_once: u32,
    /// Number of unsuccessful runs after which it is aborted.
    pub stop_after: Option<u32>,
    /// Size of the standard input of each program, in bytes.
    pub stdin_bytes: u64,
    /// Cause for which it was aborted.
    #[schema(value_type = Option<schema::AbortCause>)]
    pub aborted: Option<Open<AbortCause>>,
    /// Number of its runs by state; states without a run are left out.
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"running": 2, "succeeded": 10}))]
    pub runs: BTreeMap<String, u64>,
    /// Number of its runs that have ended.
    pub finished: u64,
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
    pub count: u64,
    /// Names of some of their devices.
    #[schema(value_type = Vec<String>)]
    pub devices: Vec<String>,
}

/// A slow run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Slow {
    /// The device's name.
    pub device: String,
    /// Duration of its program, in milliseconds.
    pub duration_ms: u64,
}

/// An operation, and a summary of its runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OperationDetail {
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub operation: OperationView,
    /// Reasons of unsuccessful runs, the most frequent first.
    pub failures: Vec<Failure>,
    /// The slowest runs that have ended.
    pub slowest: Vec<Slow>,
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

    /// An older server refuses fields that it does not know, so new ones must be absent by default.
    #[test]
    fn requests_have_only_the_given_optional_fields() {
        let request = RequestOperation {
            target: OperationTarget { devices: None, selector: Some("env=dev".to_owned()) },
            action: ActionRequest::LogLevel { level: "info".to_owned(), seconds: None },
            timeout_seconds: None,
            expires_in_seconds: 60,
            at_once: 1,
            stop_after: None,
        };
        let expected = json!({
            "target": {"selector": "env=dev"}, "action": {"kind": "log_level", "level": "info"},
            "expires_in_seconds": 60, "at_once": 1,
        });
        assert_eq!(json!(request), expected);
    }
}
