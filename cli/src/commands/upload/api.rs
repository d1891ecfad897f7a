//! Uploads in the API: their path, and the device of one.

use serde_json::Value;

use crate::output::text;

/// Path of the uploads in the API.
pub(super) const UPLOADS: &str = "/api/v1/uploads";

/// Returns the name of an upload's device, or its id.
pub(super) fn device_of(upload: &Value) -> String {
    let name = &upload["device_name"];
    if name.is_string() { text(name) } else { text(&upload["device"]) }
}
