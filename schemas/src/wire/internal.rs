//! Messages between server roles over the broker; devices can neither publish nor receive them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::OutputStream;
use crate::ids::{DeviceId, OperationId, ProjectId};
use crate::{Hash, Timestamp};

/// A request to the query role to resolve a selector. The response is a [`TargetsAnswer`], signed by
/// the key that command has given to query: an intruder who has only the broker cannot choose the
/// devices of an order.
pub const TARGETS_SUBJECT: &str = "svc.targets";

/// The subject on which command reports new output of a run.
#[must_use]
pub fn output_subject(project: &ProjectId, operation: OperationId, device: DeviceId) -> String {
    format!("svc.output.{project}.{operation}.{device}")
}

/// The subject on which followers of output report their offset: [`OutputRead`].
pub const OUTPUT_READ_SUBJECT: &str = "svc.output-read";

/// A follower's offset in an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRead {
    /// The project.
    pub project: ProjectId,
    /// The operation.
    pub operation: OperationId,
    /// The device.
    pub device: DeviceId,
    /// The output.
    pub stream: OutputStream,
    /// The follower's id, random.
    pub follower: Uuid,
    /// The next offset to read.
    pub position: u64,
}

/// The subject on which the roles that append to the log report that they cannot: [`AppendReport`].
pub const APPEND_REPORT_SUBJECT: &str = "svc.append-report";

/// Whether a process can append to the log. Sent every few seconds while it cannot, and once when it
/// can again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendReport {
    /// The process's id, random.
    pub process: Uuid,
    /// Why it cannot; `None` when it can.
    pub failure: Option<AppendFailure>,
}

/// Why a process cannot append to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendFailure {
    /// When it failed first.
    pub since: Timestamp,
    /// Why.
    pub cause: AppendFailureCause,
}

/// The cause of an [`AppendFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendFailureCause {
    /// The database's disk is full.
    DiskFull,
    /// The database cannot be reached.
    Unreachable,
    /// Another one; the log of the process has it.
    Other,
}

/// The devices that a selector may select.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetScope {
    /// Devices that are enrolled and not revoked.
    #[default]
    Enrolled,
    /// All devices that exist.
    All,
}

/// A request to resolve a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindTargets {
    /// The project.
    pub project: ProjectId,
    /// The selector's text.
    pub selector: String,
    /// The devices that it may select.
    #[serde(default)]
    pub scope: TargetScope,
    /// Only devices with a higher id.
    pub after: Option<DeviceId>,
    /// Random: a response is valid for one request.
    pub nonce: Uuid,
}

/// A response, bound to its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetsAnswer {
    /// The SHA-256 of the request's bytes.
    pub question: Hash,
    /// The response.
    pub targets: Targets,
}

/// The devices that a selector resolves to, without deleted ones, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Targets {
    /// These devices, and more if `more` is set: repeat the request with the last id.
    Found {
        /// The devices, by id.
        devices: Vec<DeviceId>,
        /// Whether there are more.
        more: bool,
        /// Metrics whose missing values left devices out; only in the first response of a series.
        without_fresh_value: Vec<WithoutFreshValue>,
    },
    /// The selector is invalid.
    Refused(String),
    /// It cannot be resolved now.
    Unavailable(String),
}

/// A metric of a selector, and how many devices it left out because they had no fresh value of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutFreshValue {
    /// The metric, as in the selector.
    pub metric: String,
    /// Number of devices that had no fresh value, so that the selector was not decided for them.
    pub device_count: u64,
    /// Number of devices for which the selector's metrics decide.
    pub candidate_count: u64,
}
