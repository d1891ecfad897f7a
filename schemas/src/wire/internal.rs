//! What servers say to each other over the broker; devices can neither say nor hear it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::OutputStream;
use crate::ids::{DeviceId, OperationId, ProjectId};
use crate::{Hash, Timestamp};

/// A request to the query role: which devices does a selector mean now? Answered by a
/// [`TargetsAnswer`], sealed by the key that command has handed to query: whoever has the broker, and
/// nothing else, does not choose the devices that an order is for.
pub const TARGETS_SUBJECT: &str = "svc.targets";

/// The subject on which command says that it has more of a run's output.
#[must_use]
pub fn output_subject(project: &ProjectId, operation: OperationId, device: DeviceId) -> String {
    format!("svc.output.{project}.{operation}.{device}")
}

/// The subject on which followers of output report how far they have read: [`OutputRead`].
pub const OUTPUT_READ_SUBJECT: &str = "svc.output-read";

/// How far a follower has read an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRead {
    /// The project.
    pub project: ProjectId,
    /// The operation.
    pub operation: OperationId,
    /// The device.
    pub device: DeviceId,
    /// Which output.
    pub stream: OutputStream,
    /// The follower's id, random.
    pub follower: Uuid,
    /// Where it reads next.
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

/// Which devices does a selector mean now?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindTargets {
    /// The project.
    pub project: ProjectId,
    /// The selector, as people write it.
    pub selector: String,
    /// Only devices whose id is higher.
    pub after: Option<DeviceId>,
    /// Random: an answer is good for one question.
    pub nonce: Uuid,
}

/// An answer, and to what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetsAnswer {
    /// The SHA-256 of the question's bytes.
    pub question: Hash,
    /// The answer.
    pub targets: Targets,
}

/// The devices that a selector means: those that are not deleted, by their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Targets {
    /// These, and more when `more` is set: ask again after the last one.
    Found {
        /// The devices, by id.
        devices: Vec<DeviceId>,
        /// There are more.
        more: bool,
    },
    /// The selector makes no sense.
    Refused(String),
    /// It cannot be asked now.
    Unavailable(String),
}
