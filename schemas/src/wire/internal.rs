//! What servers say to each other over the broker; devices can neither say nor hear it.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, OperationId, ProjectId};

/// A request to the query role: which devices does a selector mean now? Answered by [`Targets`].
pub const TARGETS_SUBJECT: &str = "svc.targets";

/// The subject on which command says that it has more of a run's output.
#[must_use]
pub fn output_subject(project: &ProjectId, operation: OperationId, device: DeviceId) -> String {
    format!("svc.output.{project}.{operation}.{device}")
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
    /// The selector makes no sense, or cannot be asked.
    Refused(String),
}
