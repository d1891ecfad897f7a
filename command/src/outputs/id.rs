//! The identity of an output, and where it is stored.

use muster_blobs::key;
use muster_schemas::wire::OutputStream;
use muster_schemas::{DeviceId, OperationId, ProjectId};

/// One output of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OutputId {
    pub(super) project: ProjectId,
    pub(super) operation: OperationId,
    pub(super) device: DeviceId,
    pub(super) stream: OutputStream,
}

impl OutputId {
    pub(super) fn folder(&self) -> String {
        key::output(&self.project, self.operation, self.device, self.stream)
    }

    /// Returns the folder of output that is passed on and not stored permanently.
    pub(super) fn live_folder(&self) -> String {
        key::live_output(&self.project, self.operation, self.device, self.stream)
    }
}
