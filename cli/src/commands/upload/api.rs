//! Uploads in the API: their path, and the device of one.

use muster_api_types::uploads::UploadView;

use crate::output::text;

/// Path of the uploads in the API.
pub(super) const UPLOADS: &str = "/api/v1/uploads";

/// Returns the name of an upload's device, or its id.
pub(super) fn device_of(upload: &UploadView) -> String {
    upload.device_name.as_ref().map_or_else(|| text(upload.device), text)
}
