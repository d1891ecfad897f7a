//! Operations in the API: their paths.

use muster_client::segment;

/// Path of the operations in the API.
pub(super) const OPERATIONS: &str = "/api/v1/operations";

/// Returns the path of an operation.
pub(super) fn path(id: &str) -> String {
    format!("{OPERATIONS}/{}", segment(id))
}
