//! Operations in the API: their paths, and the device of a run.

use muster_api_types::runs::RunView;
use muster_client::segment;

use crate::output::text;

/// Path of the operations in the API.
pub(super) const OPERATIONS: &str = "/api/v1/operations";

/// Returns the path of an operation.
pub(super) fn path(id: &str) -> String {
    format!("{OPERATIONS}/{}", segment(id))
}

/// Returns the name of a run's device, or its id.
pub(super) fn device_of(run: &RunView) -> String {
    run.name.as_ref().map_or_else(|| text(run.device), text)
}
